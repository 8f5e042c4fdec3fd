"""The input and the result of a section of the report."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Setting:
    """Shared by all sections; JSON-serializable, since each section runs in a separate process."""

    device: str
    """cuda, or cpu at toy size."""
    folder: str
    """A temporary folder for the section."""
    nanogpt: str = ""
    """A clone of nanoGPT; empty: skip it."""

    @property
    def on_gpu(self) -> bool:
        """Whether to run on a GPU at full size."""
        return self.device.startswith("cuda")


@dataclass
class Section:
    """The result of a section."""

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
