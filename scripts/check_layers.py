"""Check that imports follow the layers: `python scripts/check_layers.py [package folder]`.

A package of llamita may import only from those before it in LAYERS, and modules within a package must not import each
other in a cycle. Imports inside functions count too: a lazy import still is a dependency. Prints one line per
violation, and exits with 1 if there are any.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

LAYERS = (
    "errors", "randomness", "files", "code_digest", "file_lock", "console", "targets", "presets", "config",
    "jit", "tokenizer", "corpus", "data", "ops", "model", "optim", "parallel", "runtime", "generate", "evaluate",
    "planning", "train",
    "experiments", "serve", "interop", "cli", "__main__",
)  # fmt: skip
"""From the lowest layer up: each may import from those before it."""


def read_modules(folder: Path) -> dict[str, Path]:
    """Every module under `folder` by its dotted name; a package goes by its own name, without `__init__`."""
    files = sorted(folder.rglob("*.py"))
    return {".".join(file.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"): file
            for file in files}  # fmt: skip


def imports(module: str, file: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(line, imported module) for every import of the package's own modules in `file`, at any nesting level."""
    root = module.partition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        for name in imported_names(node, module, file):
            # `from a.b import c` imports the module a.b.c if there is one, else an attribute of a.b.
            target = name if name in modules else name.rpartition(".")[0] if isinstance(node, ast.ImportFrom) else name
            if target.partition(".")[0] == root:
                yield node.lineno, target  # type: ignore[attr-defined]


def imported_names(node: ast.AST, module: str, file: Path) -> list[str]:
    """The dotted names that a node imports, `from a import b` as "a.b"; empty if it is no import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parts = (module if file.name == "__init__.py" else module.rpartition(".")[0]).split(".")
    base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
    origin = ".".join(filter(None, (base, node.module)))
    return [f"{origin}.{alias.name}" for alias in node.names]


def layer(module: str) -> str:
    """The layer of a module: its package within llamita; empty for llamita itself, the lowest."""
    return (module + ".").split(".")[1]


def layer_violations(edges: list[tuple[str, str, str]]) -> Iterator[str]:
    """One line for each import from a higher layer; `edges` are (place, module, imported module)."""
    for place, module, target in edges:
        here, there = layer(module), layer(target)
        if there and here != there and (not here or LAYERS.index(there) > LAYERS.index(here)):
            yield f"{place}: {module} imports {target}, but {here or 'the root'} comes before {there}"


def cycles(edges: list[tuple[str, str, str]]) -> Iterator[str]:
    """One line for each import cycle within a package."""
    graph: dict[str, set[str]] = {}
    for _, module, target in edges:
        if layer(module) == layer(target):
            graph.setdefault(module, set()).add(target)
    while True:
        try:
            return graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            cycle = error.args[1][::-1]  # each imports the next; the last is the first again
            yield f"import cycle: {' -> '.join(cycle)}"
            graph[cycle[0]].discard(cycle[1])


def violations(folder: Path) -> list[str]:
    """All violations of the package in `folder`, one line each."""
    modules = read_modules(folder)
    unknown = sorted({layer(module) for module in modules} - {"", *LAYERS})
    if unknown:
        return [f"{folder / name}: not in LAYERS: add it to scripts/check_layers.py" for name in unknown]
    edges = [(f"{file}:{line}", module, target)
             for module, file in modules.items() for line, target in imports(module, file, modules)]  # fmt: skip
    unresolved = [edge for edge in edges if layer(edge[2]) not in ("", *LAYERS)]
    resolved = [edge for edge in edges if edge not in unresolved]
    missing = [f"{place}: {module} imports {target}, which does not exist" for place, module, target in unresolved]
    return [*missing, *layer_violations(resolved), *cycles(resolved)]


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "llamita"
    found = violations(folder)
    print("\n".join(found) or f"{len(read_modules(folder))} modules: all imports follow the layers")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
