"""The target value that the loss ignores."""

IGNORED = -100
"""As in PyTorch's `ignore_index`: the target of padding and of other tokens that are not scored."""
