"""Check the one direction of imports: `python scripts/check_floors.py [folder of the package]`.

A package of llamita may import only from those above it in FLOORS, and within a package no two modules may need each
other. Imports inside functions count like all others: a floor that is crossed late is crossed all the same. Prints one
line a violation, and exits with 1 where there is one.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

FLOORS = (
    "errors", "randomness", "files", "code_digest", "file_lock", "console", "targets", "presets", "config",
    "jit", "tokenizer", "corpus", "data", "ops", "model", "optim", "parallel", "runtime", "generate", "evaluate",
    "planning", "train",
    "experiments", "serve", "interop", "cli", "__main__",
)  # fmt: skip
"""From the ground upwards in the order of use: each may import from those before it."""


def read_modules(folder: Path) -> dict[str, Path]:
    """Every module under `folder` by its dotted name; a package goes by its own name, without `__init__`."""
    files = sorted(folder.rglob("*.py"))
    return {".".join(file.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"): file
            for file in files}  # fmt: skip


def imports(module: str, file: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(line, imported module) for every import of the package's own modules in `file`, wherever it stands."""
    root = module.partition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        for name in imported_names(node, module, file):
            # `from a.b import c` imports the module a.b.c where there is one, else something that a.b holds.
            target = name if name in modules else name.rpartition(".")[0] if isinstance(node, ast.ImportFrom) else name
            if target.partition(".")[0] == root:
                yield node.lineno, target  # type: ignore[attr-defined]


def imported_names(node: ast.AST, module: str, file: Path) -> list[str]:
    """The dotted names that a node imports, `from a import b` as "a.b"; empty for a node that imports nothing."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parts = (module if file.name == "__init__.py" else module.rpartition(".")[0]).split(".")
    base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
    origin = ".".join(filter(None, (base, node.module)))
    return [f"{origin}.{alias.name}" for alias in node.names]


def floor(module: str) -> str:
    """The package of llamita that a module belongs to; empty for llamita itself, on which everything stands."""
    return (module + ".").split(".")[1]


def crossed_floors(edges: list[tuple[str, str, str]]) -> Iterator[str]:
    """One line for each import from a floor that is not above; `edges` are (place, module, imported module)."""
    for place, module, target in edges:
        here, there = floor(module), floor(target)
        if there and here != there and (not here or FLOORS.index(there) > FLOORS.index(here)):
            yield f"{place}: {module} imports {target}, but {here or 'the root'} stands before {there}"


def cycles(edges: list[tuple[str, str, str]]) -> Iterator[str]:
    """One line for each cycle of modules of one package, until what is left has none."""
    graph: dict[str, set[str]] = {}
    for _, module, target in edges:
        if floor(module) == floor(target):
            graph.setdefault(module, set()).add(target)
    while True:
        try:
            return graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            cycle = error.args[1][::-1]  # each imports the next; the last is the first again
            yield f"cycle of imports: {' -> '.join(cycle)}"
            graph[cycle[0]].discard(cycle[1])


def violations(folder: Path) -> list[str]:
    """Everything that is wrong with the package in `folder`, one line each."""
    modules = read_modules(folder)
    unknown = sorted({floor(module) for module in modules} - {"", *FLOORS})
    if unknown:
        return [f"{folder / name}: not among the FLOORS of check_floors.py: give it its place" for name in unknown]
    edges = [(f"{file}:{line}", module, target)
             for module, file in modules.items() for line, target in imports(module, file, modules)]  # fmt: skip
    unheard = [edge for edge in edges if floor(edge[2]) not in ("", *FLOORS)]
    known = [edge for edge in edges if edge not in unheard]
    missing = [f"{place}: {module} imports {target}, which does not exist" for place, module, target in unheard]
    return [*missing, *crossed_floors(known), *cycles(known)]


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "llamita"
    found = violations(folder)
    print("\n".join(found) or f"{len(read_modules(folder))} modules: every import goes one way")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
