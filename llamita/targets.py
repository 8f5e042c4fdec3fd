"""What may stand in the place of a target: a token, or nothing to predict."""

IGNORED = -100
"""A target of this value is not scored: of padding, and of what no model should answer for."""
