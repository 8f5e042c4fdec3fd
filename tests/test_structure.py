"""Functions fit on a screen and files can be read in one go."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "llamita"
MOST_LINES_OF_FUNCTION, MOST_LINES_OF_FILE = 40, 400
THE_PAGE = "train/loop.py"
MOST_LINES_OF_THE_PAGE = 70
TABLES_OF_WORDS = {"corpus/story_shapes_more.py"}


def sources() -> Iterator[tuple[str, str]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")


def functions(text: str) -> Iterator[tuple[str, int]]:
    """(name, lines without the docstring) of each function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_documented = ast.get_docstring(node, clean=False) is not None
            documented = (first.end_lineno or 0) - first.lineno + 1 if is_documented else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - documented


def test_no_function_is_longer_than_forty_lines_but_the_training_page():
    long = [
        f"{name}: {function} has {lines} lines"
        for name, text in sources()
        for function, lines in functions(text)
        if lines > (MOST_LINES_OF_THE_PAGE if name == THE_PAGE else MOST_LINES_OF_FUNCTION)
    ]
    assert not long


def test_no_file_is_longer_than_four_hundred_lines_but_tables_of_words():
    counts = {name: len(text.splitlines()) for name, text in sources() if name not in TABLES_OF_WORDS}
    assert {name: count for name, count in counts.items() if count > MOST_LINES_OF_FILE} == {}


def test_the_training_page_shows_the_forward_and_the_backward_pass():
    page = dict(sources())[THE_PAGE]
    assert "model(part.ids, part.targets" in page
    assert ".backward()" in page
