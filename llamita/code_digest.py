"""The version of the code: a digest of every module that can affect weights or logged losses.

A run records it, so that an edited model never silently continues an old run. Only the syntax tree is hashed: comments,
docstrings, blank lines and formatting are not. We serialize the tree ourselves, since the output of `ast.dump`
differs between Python versions: the digest survives an upgrade of Python. (Should a future parser build
another tree from the same source, the run asks once, as after an edit.) Nothing here needs torch.
"""

import ast
import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llamita.errors import UserError
from llamita.files import default_cache, write_atomically

PACKAGE = Path(__file__).parent
EXEMPT = {
    "__main__.py": "starts the command line",
    "cli/": "parses flags and prints; the resolved config itself is part of the run's identity",
    "code_digest.py": "this file",
    "config/aliases.py": "aliases of settings",
    "config/numbers.py": "reads whole numbers",
    "config/other_trainers.py": "suggestions for unknown flags",
    "config/toml.py": "reads and writes settings",
    "console.py": "prepares the standard streams",
    "evaluate/copying.py": "scores generated text",
    "evaluate/plots.py": "plots",
    "evaluate/positions.py": "scores a finished model",
    "evaluate/writing.py": "scores generated text",
    "experiments/": "plans runs and reads their results; their configurations are part of their identity",
    "generate/": "only reads weights",
    "planning/plan.py": "prints",
    "presets/": "named configurations",
    "train/announce.py": "prints; its trial step has no side effects",
    "train/clocks.py": "times",
    "train/display.py": "prints",
    "train/hints.py": "prints",
    "train/result.py": "prints and records results",
    "train/trackers.py": "copies metrics",
    "train/tracking.py": "copies metrics",
}
"""Files, and folders ending in "/", whose code affects neither weights nor logged losses, and why."""
SUFFIXES = ".py", ".txt"  # code, and the tables it reads
SKIPPED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}
"""Fields of syntax trees that are redundant, or do not affect what is computed."""
LENGTH = 12  # hex digits of the digest of one file
CACHE_FILE = "code_digests.json"


@functools.cache
def running_code() -> dict[str, str]:
    """`file_digests` of this package at the first call in this process.

    A process runs the code it has imported: later edits have no effect on it.
    """
    return file_digests(PACKAGE)


def file_digests(package: Path) -> dict[str, str]:
    """Path relative to `package`, with "/" -> digest of the file's content, for every file that is not exempt.

    Python files are hashed by their syntax tree, others by their bytes with normalized line endings. Parsing them all
    takes 0.2 s, so digests are cached by content in `code_digests.json` in the cache folder.
    """
    contents = {path.relative_to(package).as_posix(): path.read_bytes() for path in _hashed_files(package)}
    keys = {name: _key(name, content) for name, content in contents.items()}
    cache_file = default_cache() / CACHE_FILE
    known = _read_cache(cache_file)
    digests = {name: known.get(key) or _file_digest(name, contents[name]) for name, key in keys.items()}
    cached = {keys[name]: digest for name, digest in digests.items()}
    if not cached.items() <= known.items():
        _write_cache(cache_file, cached)
    return digests


def code_digest(files: Mapping[str, str]) -> str:
    """The sha256 of all `files` together, as `file_digests` returns them."""
    lines = (f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The files that differ between two results of `file_digests`, or exist only in one; sorted."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def name_files(files: list[str], most: int = 3) -> str:
    """The first files and the number of others, e.g. "model/llama.py, ops/rope.py, optim/adamw.py and 2 more"."""
    more = len(files) - most
    return ", ".join(files[:most]) + (f" and {more:,} more" if more > 0 else "")


def is_exempt(name: str) -> bool:
    """Whether the file at this path, relative to the package, cannot affect weights or logged losses."""
    return any(name == exempt or (exempt.endswith("/") and name.startswith(exempt)) for exempt in EXEMPT)


def _hashed_files(package: Path) -> Iterator[Path]:
    for path in sorted(package.rglob("*")):
        hidden = path.name.startswith(".")  # e.g. an editor's
        if path.suffix in SUFFIXES and not hidden and not is_exempt(path.relative_to(package).as_posix()):
            yield path


def _file_digest(name: str, content: bytes) -> str:
    text = content.replace(b"\r\n", b"\n")
    if name.endswith(".py"):
        with contextlib.suppress(SyntaxError, ValueError):  # being edited, and not imported: hash its bytes
            text = canonical(ast.parse(content)).encode()
    return hashlib.sha256(text).hexdigest()[:LENGTH]


def canonical(node: Any) -> str:
    """A syntax tree as text, without positions, docstrings and other bare string statements."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in SKIPPED_FIELDS)
        # Newer Python versions have more fields, which are empty for code that older versions can parse.
        parts = (f"{name}={canonical(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(canonical(child) for child in node if not _is_docstring(child))}]"
    return f"{type(node).__name__}:{node!a}"


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _key(name: str, content: bytes) -> str:
    """The cache key of a file: this module's own code, the file's suffix and its content."""
    return hashlib.sha256(b"\0".join((_own_code(), Path(name).suffix.encode(), content))).hexdigest()


@functools.cache
def _own_code() -> bytes:
    return hashlib.sha256(Path(__file__).read_bytes()).digest()


def _read_cache(file: Path) -> dict[str, str]:
    try:
        digests = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return digests if isinstance(digests, dict) else {}


def _write_cache(file: Path, digests: dict[str, str]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(digests).encode())
    except (OSError, UserError):
        pass  # the cache only saves time
