"""Kernels are compiled once per machine, cached where nobody else can write, and loaded without a compiler."""

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from llvmlite import binding

from llamita.jit import compiler, digest, machine_code
from llamita.jit.code_cache import trusted
from llamita.jit.machine_code import Kernel, ParallelKernel
from llamita.jit.pool import run
from llamita.jit.spans import Span, i64, set_i64
from llamita.ops.cpu import cross_entropy, norm

SOURCE = '''
from factors import scaled
from llamita.jit.machine_code import ParallelKernel
from llamita.jit.primitives import fp32_ptr, log
from llamita.jit.pool import ARGS

@ParallelKernel
def change(table):
    """Twice the logarithm, which is a call of the system's library, in place."""
    x = fp32_ptr(table[ARGS])
    for i in range(table[ARGS + 1]):
        x[i] = scaled(log(x[i]))
'''
HELPERS = '''
from llamita.jit.language import helper
from llamita.jit.primitives import F

FACTOR = F(2)

@helper
def scaled(x):
    """A helper in another file."""
    return FACTOR * x
'''
RUN = """
import sys
import numpy as np
import kernel_of_a_test
from llamita.jit.pool import run
x = np.ones(3, np.float32)
run(kernel_of_a_test.change, 1, 1, x, 3, threads=1)
assert (x == 0).all()
"""
needs_linker = pytest.mark.skipif(os.name != "posix" or not shutil.which("cc"), reason="there is no linker")
needs_modes = pytest.mark.skipif(os.name != "posix", reason="the modes of files mean nothing here")


@pytest.fixture(autouse=True)
def no_kernel_cache_of_the_whole_suite(monkeypatch):
    monkeypatch.delenv("LLAMITA_KERNEL_CACHE", raising=False)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The file of a kernel, in a package whose __pycache__ only this user can write to; its helper is elsewhere."""
    monkeypatch.delenv("LLAMITA_CACHE", raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which would hide changes within a second
    (tmp_path / "home").mkdir(mode=0o700)
    folder = tmp_path / "package"
    (folder / "__pycache__").mkdir(parents=True)
    for path in (folder, folder / "__pycache__"):
        path.chmod(0o755)
    (folder / "factors.py").write_text(HELPERS)
    file = folder / "kernel_of_a_test.py"
    file.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    yield file
    sys.modules.pop("factors", None)


@pytest.fixture
def compiled(monkeypatch):
    """The names of the kernels that get compiled."""
    names, whole = [], compiler.compile_kernel
    monkeypatch.setattr(compiler, "compile_kernel", lambda *x: (names.append(x[0].__name__), whole(*x))[1])
    return names


def imported(file: Path) -> ModuleType:
    """The module in this file, freshly imported."""
    sys.modules.pop("factors", None)
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(module: ModuleType) -> np.ndarray:
    x = np.array([1.0, 2.0, 10.0], np.float32)
    run(module.change, 1, 1, x, len(x), threads=1)
    return x


def assert_right(found: np.ndarray) -> None:
    np.testing.assert_allclose(found, 2 * np.log([1.0, 2.0, 10.0]), rtol=1e-6)


def cached_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix in (machine_code.LIBRARY, machine_code.OBJECT))


def beside(source: Path) -> Path:
    return source.parent / "__pycache__"


def cache_of(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".cache" / "llamita"


def start(source: Path, code: str, **environment: str) -> subprocess.Popen:
    """Start a process that can import the kernel of the test."""
    paths = [str(source.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.Popen([sys.executable, "-c", code], env=variables, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    """The stderr of a process that must succeed."""
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


# --- compiling ---


@pytest.mark.parametrize("suffix", [pytest.param(".so", marks=needs_linker), ".o"])
def test_a_kernel_is_compiled_once_with_and_without_a_linker(source, compiled, monkeypatch, suffix):
    if suffix == ".o":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    for _ in range(2):
        assert_right(changed(imported(source)))
    assert compiled == ["change"]
    assert [file.suffix for file in cached_in(beside(source))] == [suffix]


def test_without_a_working_linker_an_object_file_is_cached(source, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable)  # which links nothing
    assert_right(changed(imported(source)))
    assert [file.suffix for file in cached_in(beside(source))] == [".o"]


def test_machine_code_does_not_depend_on_what_was_compiled_before():
    """Otherwise a run resumed after the cache was deleted would round differently."""

    def instructions(body: ParallelKernel) -> bytes:
        object_file = compiler.compile_kernel(body.function, 1, body.fastmath, "kernel", True, False)
        code = binding.ObjectFileRef.from_data(object_file)
        return b"".join(section.data() for section in code.sections() if section.is_text())

    bodies = [
        next(value for value in vars(module).values() if isinstance(value, ParallelKernel))
        for module in (norm, cross_entropy)
    ]
    first = [instructions(body) for body in bodies]
    assert [instructions(body) for body in bodies[::-1]] == first[::-1]
    assert min(map(len, first)) > 100


@Kernel
def _first_above(address: int, count: int, limit: int) -> int:
    """The index of the first number above `limit`; -1 where there is none."""
    for i in range(count):
        if i64(Span(address, 8 * count), i) > limit:
            return i
    return -1


@Kernel
def _negate(address: int, count: int) -> None:
    memory = Span(address, 8 * count)
    for i in range(count):
        set_i64(memory, i, -i64(memory, i))


@Kernel
def _half(number: int) -> float:
    return number / 2


def test_a_kernel_returns_an_int64_or_none():
    numbers = np.array([-(2**62), 3, 2**62])
    address = numbers.ctypes.data
    assert [_first_above(address, 3, limit) for limit in (-(2**63), 0, 2**62)] == [0, 1, -1]
    assert _negate(address, 3) == 0
    assert numbers.tolist() == [2**62, -3, -(2**62)]
    with pytest.raises(TypeError, match="_half returns float64"):
        _half(1)


CHECKS = """
import numpy as np
from llamita.jit.machine_code import Kernel
from llamita.jit.spans import Span, i64

@Kernel
def item(address: int, size: int, i: int) -> int:
    return i64(Span(address, size), i)
"""


def test_a_checked_build_raises_index_error_outside_a_span_and_is_not_cached(source):
    source.with_name("checks.py").write_text(CHECKS)
    code = """
from checks import *
numbers = np.arange(10)
def get(i): return item(numbers.ctypes.data, 72, i)
assert get(8) == 8
for i in (-1, 9):
    try:
        get(i)
    except IndexError as error:
        assert "item" in str(error) and "outside a span" in str(error)
    else:
        raise AssertionError(i)
"""
    finish(start(source, code, LLAMITA_CHECKED_KERNELS="1"))
    assert cached_in(beside(source)) == []
    finish(start(source, "from checks import *; x = np.arange(10); assert item(x.ctypes.data, 72, 9) == 9"))
    assert len(cached_in(beside(source))) == 1


# --- the key ---


@pytest.mark.parametrize("what", ["its own file", "a helper's file", "jit/", "the processor", "numba"])
def test_a_kernel_is_recompiled_when_a_dependency_changes(source, monkeypatch, what):
    before = imported(source).change
    key = before.key
    if what == "its own file":
        source.write_text(SOURCE.replace("+ 1", "+ 2"))
    elif what == "a helper's file":
        source.with_name("factors.py").write_text(HELPERS.replace("FACTOR * x", "FACTOR + x"))
    elif what == "jit/":
        read = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda file: read(file) + (b"#" if file.stem == "primitives" else b""))
    elif what == "the processor":
        monkeypatch.setattr(digest, "cpu_model", lambda: ["another"])
    else:
        monkeypatch.setattr(digest, "version", lambda name: "another")
    digest._environment.cache_clear()
    after = imported(source).change
    assert before.name == after.name == f"kernel_of_a_test.change.{sys.implementation.cache_tag}"
    changed_key = after.key
    digest._environment.cache_clear()
    assert changed_key != key


@pytest.mark.parametrize(
    ("before", "after", "same"), [("F(2)", "F(3)", False), ("F(2)", "F(2)  # doubled", True), ('"""A', '"""The', True)]
)
def test_the_key_covers_constants_of_helpers_but_not_comments_and_docstrings(source, before, after, same):
    first = imported(source).change.key
    source.with_name("factors.py").write_text(HELPERS.replace(before, after))
    assert (imported(source).change.key == first) == same


def test_an_edited_helper_takes_effect(source):
    assert_right(changed(imported(source)))
    source.with_name("factors.py").write_text(HELPERS.replace("F(2)", "F(20)"))
    assert_right(changed(imported(source)) / 10)


def test_a_kernel_that_takes_values_from_a_module_object_is_refused(source):
    """Its attributes could change without changing the key."""
    source.write_text(
        SOURCE.replace("from factors import scaled", "import factors").replace("scaled(", "factors.scaled(")
    )
    with pytest.raises(TypeError, match="uses the module factors"):
        _ = imported(source).change.key


# --- cache folders ---


def occupy(folder: Path) -> None:
    """Put a file where a folder should be, so that it cannot be created."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("")


def test_if_the_package_is_not_writable_code_is_cached_in_a_private_folder(source, compiled, tmp_path):
    occupy(beside(source))
    for _ in range(2):
        assert_right(changed(imported(source)))
    assert compiled == ["change"]
    assert len(cached_in(cache_of(tmp_path) / "kernels")) == 1
    if os.name == "posix":
        assert stat.S_IMODE((cache_of(tmp_path) / "kernels").stat().st_mode) == 0o700


def test_code_is_cached_in_the_folder_of_llamita_cache(source, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMITA_CACHE", str(tmp_path / "named"))
    assert_right(changed(imported(source)))
    assert len(cached_in(tmp_path / "named" / "kernels")) == 1
    assert cached_in(beside(source)) == []


@needs_modes
def test_if_others_can_write_to_the_cache_a_private_folder_in_the_home_is_used(source, compiled, tmp_path):
    occupy(beside(source))
    cache_of(tmp_path).mkdir(parents=True)
    cache_of(tmp_path).chmod(0o777)
    for _ in range(2):
        assert_right(changed(imported(source)))
    assert compiled == ["change"]
    private = tmp_path / "home" / f".llamita-kernels-{os.getuid()}"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert len(cached_in(private)) == 1
    assert cached_in(cache_of(tmp_path) / "kernels") == []


def test_without_a_writable_cache_each_process_compiles(source, compiled, tmp_path):
    for folder in (beside(source), tmp_path / "home"):
        occupy(folder)
    for _ in range(2):
        assert_right(changed(imported(source)))
    assert compiled == ["change"] * 2


@needs_modes
def test_on_a_full_disk_code_is_compiled_in_memory_and_no_files_are_left(source, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    finish(start(source, limit + RUN))
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".py"}


@needs_modes
@pytest.mark.parametrize("what", ["folder", "file", "parent"])
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_code_that_others_could_have_written_is_never_loaded(source, compiled, what, mode):
    assert_right(changed(imported(source)))
    (file,) = cached_in(beside(source))
    {"folder": file.parent, "file": file, "parent": source.parent}[what].chmod(mode)
    assert_right(changed(imported(source)))
    assert compiled == ["change"] * 2


@needs_modes
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["folder", "file", "parent"])
def test_code_of_another_user_is_never_loaded(source, compiled, what):
    assert_right(changed(imported(source)))
    (file,) = cached_in(beside(source))
    os.chown({"folder": file.parent, "file": file, "parent": source.parent}[what], 12345, -1)
    assert_right(changed(imported(source)))
    assert compiled == ["change"] * 2


@needs_modes
def test_a_symlink_is_trusted_if_its_target_is(tmp_path):
    private, public = tmp_path / "private", tmp_path / "public"
    for folder, mode in ((private, 0o700), (public, 0o777)):
        folder.mkdir()
        folder.chmod(mode)
    (tmp_path / "to_private").symlink_to(private)
    (tmp_path / "to_public").symlink_to(public)
    (public / "inner").mkdir(mode=0o700)
    assert trusted(tmp_path / "to_private") == private.resolve()
    assert trusted(tmp_path / "to_public") is trusted(public / "inner") is trusted(tmp_path / "none") is None
    public.chmod(0o1777)  # sticky: only its owner can rename a folder, as in /tmp
    assert trusted(public / "inner") == (public / "inner").resolve()
    assert trusted(public) is None


# --- damage, staleness, several processes ---


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda content: b""], ids=["cut", "flipped", "empty"])
@pytest.mark.parametrize("suffix", [pytest.param(".so", marks=needs_linker), ".o"])
def test_damaged_code_is_recompiled_and_replaced(source, compiled, monkeypatch, damage, suffix):
    if suffix == ".o":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    imported(source).change.compile()
    (file,) = cached_in(beside(source))
    intact = file.read_bytes()
    file.unlink()  # this process may have mapped it
    file.write_bytes(damage(intact))
    assert_right(changed(imported(source)))
    assert compiled == ["change"] * 2
    (repaired,) = cached_in(beside(source))
    assert repaired.stem.endswith(hashlib.sha256(repaired.read_bytes()).hexdigest()[:32])
    assert_right(changed(imported(source)))
    assert compiled == ["change"] * 2


def test_new_code_replaces_other_versions_and_leftovers_of_killed_processes(source):
    first = imported(source)
    first.change.compile()
    (stale,) = cached_in(beside(source))
    other = beside(source) / stale.name.replace("kernel_of_a_test.", "another_kernel.")
    abandoned, recent = (beside(source) / f".{first.change.name}-{name}.tmp" for name in ("abandoned", "recent"))
    for file in (other, abandoned, recent):
        file.write_bytes(b"")
    os.utime(abandoned, (time.time() - 7200,) * 2)
    source.write_text(SOURCE.replace("scaled(log(x[i]))", "scaled(log(x[i])) + x[i] - x[i]"))
    assert_right(changed(imported(source)))
    kept = cached_in(beside(source))
    assert len(kept) == 2
    assert other in kept
    assert stale not in kept
    assert recent.exists()
    assert not abandoned.exists()
    assert_right(changed(first))  # a process that has loaded the old code keeps it


def test_four_processes_may_compile_the_same_kernel_concurrently(source):
    processes = [start(source, RUN) for _ in range(4)]
    for process in processes:
        finish(process)
    files = cached_in(beside(source))
    assert len({file.read_bytes() for file in files}) == len(files) == 1
    assert finish(start(source, RUN)) == ""


def test_compiling_is_announced_once_per_process(source):
    source.with_name("checks.py").write_text(CHECKS)
    code = RUN + "\nfrom checks import *\nitem(x.ctypes.data, 8, 0)"
    assert finish(start(source, code)).count("compiling kernels") == 1
    assert finish(start(source, code)) == ""


def test_cached_kernels_need_neither_compiler_nor_torch(source):
    finish(start(source, RUN))
    (file,) = cached_in(beside(source))
    unneeded = {"numba", "torch", *(["llvmlite"] if file.suffix == machine_code.LIBRARY else [])}
    finish(start(source, RUN + f"\nassert not sys.modules.keys() & {unneeded!r}"))


# --- without numba ---

WITHOUT_NUMBA = """
import sys
class Blocked:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "{missing}":
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import kernel_of_a_test
from llamita import jit
"""


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_without_numba_cached_kernels_are_available_and_others_are_reported_in_one_line(source, missing):
    code = WITHOUT_NUMBA.format(missing=missing)
    ask = "assert jit.available(kernel_of_a_test.change) == {}\n"
    errors = finish(start(source, code + ask.format(False) + "assert not jit.available()"))
    assert errors.count("\n") == 1
    assert "numba cannot be imported" in errors
    assert "pip install numba" in errors
    finish(start(source, RUN))
    (file,) = cached_in(beside(source))
    if file.suffix == machine_code.LIBRARY or missing == "numba":
        assert finish(start(source, code + ask.format(True) + RUN)) == ""


def test_with_numba_uncompiled_kernels_are_available(source):
    assert finish(start(source, "import kernel_of_a_test; from llamita import jit; assert jit.available()")) == ""


def test_a_numba_that_fails_to_load_counts_as_missing(source):
    (source.parent / "numba").mkdir()
    (source.parent / "numba" / "__init__.py").write_text("raise ImportError('numba needs another numpy')")
    code = "import kernel_of_a_test; from llamita import jit; assert not jit.available()"
    assert "numba cannot be imported" in finish(start(source, code))
