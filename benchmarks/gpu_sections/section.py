"""What a section of the report is given, and what it returns."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Setting:
    """What all sections share; plain JSON, since each section runs in a process of its own."""

    device: str
    """cuda, or cpu at toy size."""
    folder: str
    """Where the section may write, and nothing is kept."""
    nanogpt: str = ""
    """A clone of nanoGPT; empty: it is not measured."""

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU, and sizes are real ones."""
        return self.device.startswith("cuda")


@dataclass
class Section:
    """What a section found."""

    status: Status = "passed"
    summary: str = ""
    """One line for the table of all sections."""
    lines: list[str] = field(default_factory=list)
    """Markdown below the section's title."""
    data: dict[str, Any] = field(default_factory=dict)
    """The numbers, for JSON."""

    @classmethod
    def judged(cls, problems: list[str], good: str, lines: list[str], data: dict[str, Any]) -> "Section":
        """Failed if there are problems, which are then the summary; else passed, with `good` as the summary."""
        return cls("failed" if problems else "passed", "; ".join(problems) or good, lines, data)
