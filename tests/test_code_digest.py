"""A run records which code computed it: which edits change the digest, and which do not."""

import json
import shutil
from pathlib import Path

import pytest

from llamita import code_digest as digests
from llamita.code_digest import EXEMPT, PACKAGE, SUFFIXES, changed_files, code_digest, file_digests, is_exempt

SOURCE = '''"""What a module says of itself."""
import math

def area(radius: float) -> float:  # of a disc
    """Its area."""
    return math.pi * radius**2
'''


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate cache for the test."""
    monkeypatch.setenv("LLAMITA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / digests.CACHE_FILE


def package(folder: Path, source: str, name: str = "model/disc.py", newline: str = "\n") -> Path:
    """A package of one file."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8", newline=newline)
    return folder


def test_comments_docstrings_formatting_and_line_endings_do_not_change_the_digest(tmp_path):
    before = file_digests(package(tmp_path / "before", SOURCE))
    same = {
        "comment": SOURCE.replace("# of a disc", "# of a circle"),
        "docstrings": SOURCE.replace("Its area.", "In square metres.").replace(
            '"""What a module', '"""All that a module'
        ),
        "no docstring": SOURCE.replace('    """Its area."""\n', ""),
        "blank lines": SOURCE.replace("import math\n", "import math\n\n\n"),
        "parentheses": SOURCE.replace("math.pi * radius**2", "(math.pi * (radius ** 2))"),
    }
    for what, source in same.items():
        assert file_digests(package(tmp_path / what, source)) == before, what
    assert file_digests(package(tmp_path / "windows", SOURCE, newline="\r\n")) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("**2", "**3"), ("**2", "**2.0"), ("math.pi * ", ""), ("radius: float", "radius: int"), ("math", "cmath")],
)
def test_an_edit_of_code_changes_the_digest(tmp_path, old, new):
    before = file_digests(package(tmp_path / "before", SOURCE))
    now = file_digests(package(tmp_path / "now", SOURCE.replace(old, new)))
    assert changed_files(before, now) == ["model/disc.py"]
    assert code_digest(before) != code_digest(now)


def test_added_removed_and_renamed_files_are_changes(tmp_path):
    before = file_digests(package(tmp_path / "before", SOURCE))
    added = file_digests(package(package(tmp_path / "added", SOURCE), SOURCE, "model/ring.py"))
    renamed = file_digests(package(tmp_path / "renamed", SOURCE, "model/ring.py"))
    assert changed_files(before, added) == ["model/ring.py"]
    assert changed_files(added, before) == ["model/ring.py"]
    assert changed_files(before, renamed) == ["model/disc.py", "model/ring.py"]
    assert len({code_digest(files) for files in (before, added, renamed)}) == 3


def test_data_files_are_hashed_by_their_bytes_except_line_endings(tmp_path):
    table = "tokenizer/classes.txt"
    before = file_digests(package(tmp_path / "before", "a-z L\n", table))
    assert file_digests(package(tmp_path / "windows", "a-z L\n", table, newline="\r\n")) == before
    assert changed_files(before, file_digests(package(tmp_path / "now", "a-z  L\n", table))) == [table]


def test_a_file_that_does_not_parse_is_hashed_by_its_bytes(tmp_path):
    before = file_digests(package(tmp_path / "before", "def half("))
    assert changed_files(before, file_digests(package(tmp_path / "now", "def half(x"))) == ["model/disc.py"]


def test_editor_files_and_exempt_files_are_ignored(tmp_path):
    folder = package(tmp_path / "package", SOURCE)
    before = file_digests(folder)
    for name in (".#disc.py", "model/disc.py~", "model/__pycache__/disc.pyc", "cli/train.py", "code_digest.py"):
        package(folder, "anything", name)
    assert file_digests(folder) == before


def test_the_digest_does_not_depend_on_the_version_of_python(tmp_path):
    """A hardcoded digest: `ast.dump` of the same source differs between Python 3.11, 3.12 and 3.13."""
    source = SOURCE + (
        "class Disc:\n    size: int = 0x10\n    def f(self, *, a=None, **b):\n"
        "        return [f'{x!r:>4}{a}' for x in b if x is not ...], -1e-8, 1j, b'\\xff', u'\\u00e9', True\n"
    )
    assert file_digests(package(tmp_path, source)) == {"model/disc.py": "550b7cc3c50a"}


def test_every_file_is_hashed_or_exempt_and_every_exemption_exists():
    for exempt in EXEMPT:
        path = PACKAGE / exempt
        assert path.is_dir() if exempt.endswith("/") else path.is_file(), f"{exempt} is gone: remove it from EXEMPT"
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = {path.relative_to(PACKAGE).as_posix() for path in files}
    counted = set(file_digests(PACKAGE))
    assert {name for name in names - counted if not is_exempt(name)} == {"py.typed"}
    assert all(Path(name).suffix in SUFFIXES for name in counted)


@pytest.mark.parametrize("part", ["tokenizer", "corpus", "data", "model", "ops", "optim", "jit", "runtime", "train"])
def test_everything_between_text_and_weights_is_hashed(part):
    assert any(name.startswith(f"{part}/") for name in file_digests(PACKAGE))


def test_digests_are_cached_by_content_and_a_damaged_cache_is_rebuilt(tmp_path, monkeypatch, cache):
    folder = package(tmp_path / "package", SOURCE)
    expected = file_digests(folder)
    assert len(json.loads(cache.read_bytes())) == 1
    with monkeypatch.context() as without_parser:
        without_parser.setattr(digests.ast, "parse", None)
        assert file_digests(folder) == expected  # from the cache, since parsing is patched to fail
    for content in (b"{half", b"[]", b"\xff"):
        cache.write_bytes(content)
        assert file_digests(folder) == expected


def test_without_a_writable_cache_the_digest_is_the_same(tmp_path, monkeypatch):
    folder = package(tmp_path / "package", SOURCE)
    expected = file_digests(folder)
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAMITA_CACHE", str(tmp_path / "file"))  # no folder
    assert file_digests(folder) == expected


def test_a_copy_of_the_package_elsewhere_has_the_same_digest(tmp_path):
    copy = shutil.copytree(PACKAGE, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    assert file_digests(copy) == file_digests(PACKAGE)
