"""Write docs/api.md from the signatures and docstrings of what is public: `python scripts/write_api_page.py`."""

import ast
import importlib
import inspect
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
PUBLIC = {
    "llamita.train": (
        "train", "load_run", "find_checkpoint", "save_checkpoint", "load_checkpoint", "RunDirectory", "choose_hardware",
        "Hardware", "Display", "count_parameters", "training_memory", "Memory", "cache_bytes_per_token",
    ),
    "llamita.generate": None,
    "llamita.evaluate": None,
    "llamita.evaluate.plots": ("write_plots", "Pictured"),
    "llamita.config": ("RunConfig", "replace"),
    "llamita.tokenizer": None,
    "llamita.corpus": None,
    "llamita.data": None,
    "llamita.model": None,
    "llamita.optim": None,
}  # fmt: skip
"""Modules in the order of use, and which names of them; None: all that they export."""

WIDTH = 100
INTRODUCTION = """\
# From Python

What other people's code may rely on, with shapes, units and errors, as the docstrings say it. The example in the
[README](../README.md) is the way in: `train(config)`, `load_run`, `generate`. All settings are in
[configuration.md](configuration.md).

Everywhere, losses are in nats, ids are int64 in tensors, and a person's mistake raises `llamita.errors.UserError`,
whose text is one line that says what to do.

This page is written by `python scripts/write_api_page.py`.
"""


def page() -> str:
    """The whole page."""
    names = {module: PUBLIC[module] or importlib.import_module(module).__all__ for module in PUBLIC}
    lines = [INTRODUCTION]
    for module, exported in names.items():
        lines += [f"## {module}", *prose(importlib.import_module(module)), ""]
        for name in exported:
            lines += [*entry(module, name, getattr(importlib.import_module(module), name)), ""]
    return "\n".join(lines).rstrip() + "\n"


def entry(module: str, name: str, thing: Any) -> list[str]:
    """The section of one public name."""
    heading = [f"### {name}", ""]
    if inspect.isfunction(thing):
        return [*heading, *fenced(signature(definition(thing)), "python"), *prose(thing)]
    if inspect.isclass(thing):
        return [*heading, *fenced(class_lines(definition(thing)), "python"), *prose(thing), *methods(definition(thing))]
    return [*heading, *fenced(f"{module}.{name} = {thing!r}", "text")]


def definition(thing: Any) -> Any:
    """The syntax tree of a class or function, so that types and defaults stand as they were written."""
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def signature(node: ast.FunctionDef, name: str = "", width: float = WIDTH) -> str:
    """`f(a: int, b: str = "") -> float`, over several lines where one would be longer than `width`."""
    arguments = [spaced(part) for part in split(ast.unparse(node.args)) if part not in ("", "self", "cls")]
    end = f") -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ")"
    line = f"{name or node.name}({', '.join(arguments)}{end}"
    if len(line) <= width:
        return line
    return "\n".join([f"{name or node.name}(", *(f"    {part}," for part in arguments), end])


def split(arguments: str) -> list[str]:
    """The arguments one by one: cut at the commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def spaced(argument: str) -> str:
    """`a: int=1` -> `a: int = 1`."""
    return re.sub(r"^(\w+: [^=]+)=", r"\1 = ", argument)


def class_lines(node: ast.ClassDef) -> str:
    """How an object is made: its `__init__`, or the fields of a dataclass or named tuple."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return signature(child, node.name)
    fields = [ast.unparse(child) for child in node.body if isinstance(child, ast.AnnAssign)]
    return "\n".join([f"class {node.name}", *(f"    {field}" for field in fields)])


def methods(node: ast.ClassDef) -> Iterator[str]:
    """The public methods and properties of a class, each with what it says of itself."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_")):
            text = ast.get_docstring(child)
            if child.name == "__init__":
                yield from rendered(text) if text else ()
            else:
                shown = child.name if is_property(child) else signature(child, width=math.inf)
                first, *rest = rendered(text or "")[1:] or [""]
                yield from ("", f"- `.{shown}`: {first}", *(textwrap.indent(line, "  ") for line in rest))


def is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith("property") for decorator in node.decorator_list)


def prose(thing: Any) -> list[str]:
    """The docstring as Markdown. (Not an inherited one, which `inspect.getdoc` would hand out.)"""
    return rendered(inspect.cleandoc(thing.__doc__ or ""))


def rendered(text: str) -> list[str]:
    """Paragraphs as they are; what is aligned or indented, such as arguments and examples, as it stands."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        aligned = any(re.search(r"^\s|^>>>|\S {2,}\S", line) for line in paragraph.splitlines())
        lines += ["", *(fenced(textwrap.dedent(paragraph), "text") if aligned else [paragraph])]
    return lines


def fenced(text: str, language: str) -> list[str]:
    return [f"```{language}", text, "```"]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
