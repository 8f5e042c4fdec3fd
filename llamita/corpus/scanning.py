"""Looking for files below a folder, or by a pattern: what is not text of the user's is skipped, and counted by kind.

Skipped are hidden files and folders, what llamita itself writes (run directories, checkpoints, prepared tokens), what
other programs keep (caches, installed packages), and links to folders, which could lead in circles. A folder that the
user names is always looked into.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import translate
from glob import has_magic
from pathlib import Path

CACHES = {"__pycache__", "node_modules", "site-packages", "__MACOSX", "bower_components"}
CACHE_MARKS = {"pyvenv.cfg", "CACHEDIR.TAG"}
"""Files in virtual environments, and in caches as https://bford.info/cachedir/ describes them."""
RUN_DIRECTORY = "run directory"
RUN_LOGS = {"metrics.jsonl", "samples.jsonl"}
RUN_FILES = {*RUN_LOGS, "tokenizer.json", "best.json"}
MOST_SUFFIXES = 5  # that are counted separately
PLURALS = {
    "hidden": "hidden",
    RUN_DIRECTORY: "run directories",
    "link to a folder": "links to folders",
    "output of this command": "outputs of this command",
    "folder of prepared tokens": "folders of prepared tokens",
}


class Skipped:
    """How much was skipped, by kind: `3 .html files, 2 run directories and 1 hidden` as a string."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._suffixes: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._kinds or self._suffixes)

    def count(self, kind: str) -> None:
        """Count one more of a kind, named in the singular."""
        self._kinds[kind] += 1

    def count_file(self, suffix: str) -> None:
        """Count one more file whose name ends with `suffix`, which is empty for a name without a dot."""
        self._suffixes[suffix] += 1

    def add(self, other: "Skipped") -> None:
        """Count what another has counted."""
        self._kinds += other._kinds
        self._suffixes += other._suffixes

    def __str__(self) -> str:
        kinds = [f"{n:,} {_plural(kind, n)}" for kind, n in self._kinds.most_common()]
        common = [(suffix, n) for suffix, n in self._suffixes.most_common(MOST_SUFFIXES) if suffix]
        others = self._suffixes.total() - sum(n for _, n in common)
        files = [f"{n:,} {_plural(f'{suffix} file', n)}" for suffix, n in common]
        files += [f"{others:,} {_plural('other file', others)}"] if others else []
        *first, last = [*kinds, *files] or ["nothing"]
        return f"{', '.join(first)} and {last}" if first else last


def scan_folder(folder: Path, skipped: Skipped, is_text: Callable[[str], bool]) -> list[Path]:
    """The files below a folder whose names are those of text, sorted. Raises OSError where it cannot be opened."""
    found = [below / name for below, names in _walk(folder, skipped) for name in names if is_text(name)]
    return sorted(found, key=lambda path: path.parts)


def expand_pattern(pattern: Path, skipped: Skipped) -> list[Path]:
    """The files and folders that a pattern such as `a/**/*.txt` stands for, each once, sorted.

    As `glob` does, but `**` follows no links and skips what a scan skips, and `a/**` is the folder a. Raises OSError
    where a folder before `**` cannot be opened.
    """
    parts = pattern.parts[1:] if pattern.anchor else pattern.parts
    return sorted(set(_expand(Path(pattern.anchor), parts, skipped)), key=str)


def _expand(folder: Path, parts: tuple[str, ...], skipped: Skipped) -> Iterator[Path]:
    """What is below `folder` by the parts of a pattern."""
    if not parts:
        yield folder
        return
    first, rest = parts[0], parts[1:]
    if first == "**" and os.path.isdir(folder):
        for below, _ in _walk(folder, skipped) if rest else ((folder, ()),):
            yield from _expand(below, rest, skipped)
    elif has_magic(first):
        for path in _matches(folder, first, skipped):
            yield from _expand(path, rest, skipped)
    elif os.path.exists(folder / first):
        yield from _expand(folder / first, rest, skipped)


def _matches(folder: Path, part: str, skipped: Skipped) -> Iterator[Path]:
    """The files and folders in `folder` that one part of a pattern stands for, such as `*.txt`."""
    matches = re.compile(translate(part), re.IGNORECASE if os.name == "nt" else 0).match
    for name in _names(folder):
        path = folder / name
        if not matches(name) or (_is_hidden(name) and not _is_hidden(part)):
            continue
        if not os.path.exists(path):  # a dead link
            continue
        if kind := os.path.isdir(path) and _kind_of_folder(name, set(_names(path))):
            skipped.count(kind)
        else:
            yield path


def _walk(folder: Path, skipped: Skipped) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it that are not skipped, each with the names of the files that are not.

    Raises OSError where `folder` cannot be opened; others are then counted.
    """
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                inside = list(entries)
        except OSError:
            if current is folder:
                raise
            skipped.count("unreadable folder")
            continue
        kind = _kind_of_folder(current.name, {entry.name for entry in inside})
        if kind and current is not folder:
            skipped.count(kind)
            continue
        if kind == RUN_DIRECTORY:  # the folder to scan is one itself
            inside = [entry for entry in inside if entry.name not in RUN_LOGS]
        folders, files = _sorted_out(inside, skipped)
        pending += [current / name for name in folders]
        yield current, files


def _sorted_out(entries: list[os.DirEntry[str]], skipped: Skipped) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files that are not skipped."""
    folders: list[str] = []
    files: list[str] = []
    for entry in entries:
        if _is_hidden(entry.name):
            skipped.count("hidden")
        elif entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        elif entry.is_file():
            files.append(entry.name)
        elif entry.is_symlink() and entry.is_dir():
            skipped.count("link to a folder")
        # else a dead link, a socket and the like
    return folders, files


def _kind_of_folder(name: str, names: set[str]) -> str | None:
    """What a folder is that a scan skips, by its name and the names in it; None for one that is looked into."""
    if name in CACHES or not CACHE_MARKS.isdisjoint(names):
        return "cache"
    if "config.toml" in names and (not RUN_FILES.isdisjoint(names) or any(map(_is_step, names))):
        return RUN_DIRECTORY
    if {"manifest.json", "model.safetensors"} <= names:
        return "checkpoint"
    if {"manifest.json", "train.bin"} <= names or ".partial-" in name:
        return "folder of prepared tokens"
    return None


def _is_step(name: str) -> bool:
    return name.startswith("step_") and name.removeprefix("step_").isdecimal()


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _names(folder: Path) -> list[str]:
    """The names in a folder; none where it is not one, or cannot be opened."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else PLURALS.get(kind, f"{kind}s")
