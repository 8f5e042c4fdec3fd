"""Which code computes: a digest of every module that can change a number between the text and the weights.

A run records it, so that an edited model is not silently the old run. What counts is the syntax tree: comments,
docstrings, blank lines and layout do not. The tree is written out by our own rules, not by `ast.dump`, whose output
differs between versions of Python: after an upgrade of Python the digest is the same. (Should a future parser build
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
    "cli/": "turns flags into a configuration, and prints; the configuration itself is the run's identity",
    "code_digest.py": "this file",
    "config/aliases.py": "other names of settings",
    "config/toml.py": "reads and writes settings",
    "evaluate/copying.py": "measures text that a model wrote",
    "evaluate/plots.py": "draws",
    "evaluate/positions.py": "scores a finished model",
    "evaluate/writing.py": "measures text that a model wrote",
    "generate/": "reads weights, and changes none",
    "planning/plan.py": "prints",
    "presets/": "named configurations",
    "train/announce.py": "prints; its step on trial leaves no trace",
    "train/display.py": "prints",
    "train/hints.py": "prints",
}
"""Files, and folders that end in "/", whose code changes neither weights nor logged losses, and why."""
SUFFIXES = ".py", ".txt"  # code, and the tables that code reads
UNWRITTEN = {"ctx", "kind", "type_comment", "type_ignores"}
"""Fields of syntax trees that follow from the others, or say nothing about what is computed."""
LENGTH = 12  # hex digits of the digest of one file
CACHE_FILE = "code_digests.json"


@functools.cache
def running_code() -> dict[str, str]:
    """`file_digests` of this package when this process first asked.

    A process computes with the code that it has imported: what is edited meanwhile has no effect on it.
    """
    return file_digests(PACKAGE)


def file_digests(package: Path) -> dict[str, str]:
    """Path relative to `package`, with "/", -> digest of what the file computes, for every file that counts.

    Python files count by their syntax tree, others by their bytes; how lines end makes no difference. Parsing them all
    takes 0.2 s, so digests are cached by content in `code_digests.json` of the cache folder.
    """
    contents = {path.relative_to(package).as_posix(): path.read_bytes() for path in _counted_files(package)}
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
    """The files that differ between two results of `file_digests`, or are there in one only; sorted."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def name_files(files: list[str], most: int = 3) -> str:
    """A few of `files`, and how many more there are, e.g. "model/llama.py, ops/rope.py, optim/adamw.py and 2 more"."""
    more = len(files) - most
    return ", ".join(files[:most]) + (f" and {more:,} more" if more > 0 else "")


def is_exempt(name: str) -> bool:
    """Whether the file at this path, relative to the package, cannot change weights or logged losses."""
    return any(name == exempt or (exempt.endswith("/") and name.startswith(exempt)) for exempt in EXEMPT)


def _counted_files(package: Path) -> Iterator[Path]:
    for path in sorted(package.rglob("*")):
        hidden = path.name.startswith(".")  # an editor's
        if path.suffix in SUFFIXES and not hidden and not is_exempt(path.relative_to(package).as_posix()):
            yield path


def _file_digest(name: str, content: bytes) -> str:
    text = content.replace(b"\r\n", b"\n")
    if name.endswith(".py"):
        with contextlib.suppress(SyntaxError, ValueError):  # half edited, and not imported: it counts by its bytes
            text = canonical(ast.parse(content)).encode()
    return hashlib.sha256(text).hexdigest()[:LENGTH]


def canonical(node: Any) -> str:
    """A syntax tree as text, without positions, docstrings and other strings that stand alone as a statement."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in UNWRITTEN)
        # Newer versions of Python have more fields, which are empty for code that older ones understand.
        written = (f"{name}={canonical(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(written)})"
    if isinstance(node, list):
        return f"[{','.join(canonical(child) for child in node if not _is_docstring(child))}]"
    return f"{type(node).__name__}:{node!a}"


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _key(name: str, content: bytes) -> str:
    """Where the digest of a file is found in the cache: by the rules above, the kind of file and its content."""
    return hashlib.sha256(b"\0".join((_rules(), Path(name).suffix.encode(), content))).hexdigest()


@functools.cache
def _rules() -> bytes:
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
        pass  # it saves time only
