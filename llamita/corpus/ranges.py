"""Which bytes of a file are on disk already: a log beside it, so that an interrupted download is continued."""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

VERIFIED = "verified"


class Ranges:
    """The byte ranges of `file` that were written, kept in `file`.ranges: a line `start end` for each write.

    A line that a killed process left unfinished is ignored, and its bytes are fetched again. Where `file` was cut short
    since, all of it is.
    """

    def __init__(self, file: Path):
        self.file, self._log = file, file.with_name(f"{file.name}.ranges")
        self.verified = False
        self._ranges: list[tuple[int, int]] = []  # disjoint, sorted
        self._load()

    def missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges between `start` and `end` that are not on disk, in order."""
        at = bisect_right(self._ranges, (start, start))
        for known_start, known_end in self._ranges[max(at - 1, 0) :]:
            if known_start >= end:
                break
            if start < known_start:
                yield start, known_start
            start = max(start, known_end)
        if start < end:
            yield start, end

    def add(self, start: int, end: int) -> None:
        """Note that these bytes were written."""
        if start < end:
            self._append(f"{start} {end}")
            self._merge(start, end)

    def verify(self) -> None:
        """Note that the whole file is what was published."""
        self._append(VERIFIED)
        self.verified = True

    def forget(self) -> None:
        """Delete the file and what is known of it."""
        self._log.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)
        self._ranges, self.verified = [], False

    def _load(self) -> None:
        lines = self._lines()
        size = self.file.stat().st_size if lines else 0
        written = [tuple(map(int, line.split())) for line in lines if line != VERIFIED]
        if any(end > size for _, end in written):
            self.forget()
            return
        for start, end in written:
            self._merge(start, end)
        self.verified = VERIFIED in lines

    def _merge(self, start: int, end: int) -> None:
        if start >= end:
            return
        touching = [known for known in self._ranges if known[0] <= end and start <= known[1]]
        merged = min([start, *(known[0] for known in touching)]), max([end, *(known[1] for known in touching)])
        self._ranges = sorted([*(known for known in self._ranges if known not in touching), merged])

    def _append(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(line + "\n")

    def _lines(self) -> list[str]:
        if not (self.file.exists() and self._log.exists()):
            return []
        *complete, _ = self._log.read_text(encoding="utf-8").split("\n")
        return complete
