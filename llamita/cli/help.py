"""How --help is laid out."""

from cyclopts.help import HelpPanel, InlineText
from cyclopts.help.formatters import DefaultFormatter
from rich.console import Console, ConsoleOptions
from rich.text import Text


class OneParagraphEach(DefaultFormatter):
    """Descriptions are filled to the width of the console, whatever line ends their docstrings have."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one group of flags or commands."""
        for entry in panel.entries:
            description = entry.description
            if isinstance(description, InlineText) and isinstance(description.primary_renderable, Text):
                description.primary_renderable = Text(" ".join(description.primary_renderable.plain.split()))
        super().__call__(console, options, panel)
