"""Loops are compiled once on a machine, kept where there is a place, and found again without a compiler."""

import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from llvmlite import binding

from llamita.jit import compiler, machine_code
from llamita.jit.language import Helper
from llamita.ops import cpu as kernels
from llamita.ops.cpu import cross_entropy, norm
from llamita.ops.cpu.launch import run

SOURCE = '''
from llamita.jit.language import helper
from llamita.jit.machine_code import Body
from llamita.jit.numbers import F, fp32s, log
from llamita.jit.pool import FIRST_ARGUMENT

FACTOR = F(2)

@helper
def scaled(x):
    """A helper of the loop."""
    return FACTOR * x

@Body
def change(table):
    """Twice the logarithm, which is a call of the system's library, in place."""
    x = fp32s(table[FIRST_ARGUMENT])
    for i in range(table[FIRST_ARGUMENT + 1]):
        x[i] = scaled(log(x[i]))
'''


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "package" / "loop_of_a_test.py"
    file.parent.mkdir()
    file.write_text(SOURCE)
    return file


@pytest.fixture
def compiled(monkeypatch):
    """The names of what is compiled."""
    names, whole = [], compiler.compile_loop
    monkeypatch.setattr(compiler, "compile_loop", lambda *x: (names.append(x[0].__name__), whole(*x))[1])
    return names


def imported(file: Path) -> ModuleType:
    """The module of this file, as a process that starts would see it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(module: ModuleType) -> torch.Tensor:
    x = torch.tensor([1.0, 2.0, 10.0])
    run(module.change, 1, 1, x, len(x))
    return x


def assert_right(found: torch.Tensor) -> None:
    torch.testing.assert_close(found, 2 * torch.tensor([1.0, 2.0, 10.0]).log())


def kept_in(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*") if file.suffix in (machine_code.LIBRARY, machine_code.OBJECT)]


@pytest.mark.parametrize(("linker", "suffix"), [("cc", ".so"), (None, ".o")])
def test_a_loop_is_compiled_once_with_and_without_a_linker(source, compiled, monkeypatch, linker, suffix):
    if linker and not (shutil.which(linker) and os.name == "posix"):
        pytest.skip("there is no linker")
    monkeypatch.setattr(shutil, "which", lambda name: linker)
    for _ in range(2):
        assert_right(changed(imported(source)))
    assert compiled == ["change"]
    assert [file.suffix for file in kept_in(source.parent / "__pycache__")] == [suffix]


def test_a_linker_that_fails_is_done_without(source, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable)  # which links nothing
    assert_right(changed(imported(source)))
    assert [file.suffix for file in kept_in(source.parent / "__pycache__")] == [".o"]


def test_a_loop_becomes_the_same_code_whatever_was_compiled_before():
    """Else a run that goes on where the files were deleted would round differently."""

    def instructions(body: machine_code.Body) -> bytes:
        code = binding.ObjectFileRef.from_data(compiler.compile_loop(body.function, body.rewrites, "loop"))
        return b"".join(section.data() for section in code.sections() if section.is_text())

    first = [instructions(body) for body in (norm._backward, cross_entropy._slopes)]
    assert [instructions(body) for body in (cross_entropy._slopes, norm._backward)] == first[::-1]
    assert min(map(len, first)) > 100


def test_where_a_package_cannot_be_written_to_its_loops_are_kept_for_the_person(
    source, compiled, tmp_path, monkeypatch
):
    monkeypatch.setenv("LLAMITA_CACHE", str(tmp_path / "cache"))
    (source.parent / "__pycache__").write_text("a file in the place of the folder")
    for _ in range(2):
        assert_right(changed(imported(source)))
    assert compiled == ["change"]
    assert len(kept_in(tmp_path / "cache" / "loops")) == 1


def test_without_any_place_to_keep_it_a_loop_is_compiled_by_each_process(source, compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMITA_CACHE", str(tmp_path / "cache"))
    for folder in (source.parent / "__pycache__", tmp_path / "cache"):
        folder.write_text("a file in the place of the folder")
    for _ in range(2):
        assert_right(changed(imported(source)))
    assert compiled == ["change"] * 2


@pytest.mark.parametrize("damaged", [b"", b"\x7fELF", b"no library" * 100])
def test_a_damaged_library_is_compiled_anew(source, compiled, damaged):
    module = imported(source)
    file = source.parent / "__pycache__" / (module.change.name + machine_code.LIBRARY)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(damaged)
    assert_right(changed(module))
    assert compiled == ["change"]
    assert file.read_bytes() != damaged or not shutil.which("cc")


@pytest.mark.parametrize("what", ["its own file", "what loops are written in", "the processor", "numba"])
def test_a_loop_is_compiled_anew_when_what_it_depends_on_changes(source, monkeypatch, what):
    before = imported(source).change.name
    if what == "its own file":
        source.write_text(SOURCE.replace("F(2)", "F(3)"))
    elif what == "what loops are written in":
        files = machine_code.Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda file: files(file) + (b"#" if file.stem == "numbers" else b""))
    elif what == "the processor":
        monkeypatch.setattr(machine_code, "cpu_model", lambda: ["another"])
    else:
        monkeypatch.setattr(machine_code, "version", lambda name: "another")
    machine_code._surroundings.cache_clear()
    after = imported(source).change.name
    machine_code._surroundings.cache_clear()
    assert before != after
    assert before.partition("-")[0] == after.partition("-")[0] == "loop_of_a_test.change"


def test_what_loops_call_is_in_the_files_that_they_are_named_after():
    """A change elsewhere would go unnoticed, and the code of before run on."""
    found = 0
    for module in pkgutil.iter_modules(kernels.__path__, "llamita.ops.cpu."):
        for body in vars(importlib.import_module(module.name)).values():
            if isinstance(body, machine_code.Body):
                own, names = Path(body.function.__code__.co_filename), body.function.__globals__
                used = [names[name] for name in body.function.__code__.co_names if name in names]
                for helper in (value for value in used if isinstance(value, Helper)):
                    written = Path(helper.function.__code__.co_filename)
                    assert written == own or written.parent == Path(machine_code.__file__).parent
                    found += 1
    assert found > 50


def test_a_process_whose_loops_were_compiled_before_needs_no_compiler(source):
    assert_right(changed(imported(source)))
    (file,) = kept_in(source.parent / "__pycache__")
    compilers = ["numba"] if file.suffix == machine_code.OBJECT else ["numba", "llvmlite"]
    code = f"""
import sys, torch, loop_of_a_test
from llamita.ops.cpu.launch import run
run(loop_of_a_test.change, 1, 1, torch.ones(3), 3)
assert not sys.modules.keys() & {compilers!r}
"""
    paths = [str(source.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
