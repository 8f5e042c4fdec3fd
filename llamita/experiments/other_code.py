"""`--code`: runs of a changed model: of a Python file with a subclass of `Llama`, or of another checkout."""

import hashlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

from llamita.code_digest import code_digest, file_digests
from llamita.config import RunConfig
from llamita.errors import DivergenceError, UserError
from llamita.model import Llama

CHECKOUT_PROGRAM = """
import json, sys
from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.train import Display, train
try:
    train(RunConfig.from_tables(json.load(sys.stdin)), Display(quiet=True))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
"""
"""Trains one run with the code of a checkout, which is first on the path."""
MISTAKE = 3  # exit code of the program after a `UserError`
DIVERGED = "training has diverged"  # in the message of any version


def require_code(path: str) -> None:
    """Raise `UserError` unless `path` is a checkout of llamita, or a Python file with one subclass of `Llama`."""
    if is_checkout(path):
        return
    if Path(path).suffix != ".py" or not Path(path).is_file():
        raise UserError(f"--code {path}: neither a Python file nor a folder with the package llamita")
    model_class(path)


def is_checkout(path: str) -> bool:
    """Whether `path` is a folder that has the package llamita."""
    return (Path(path) / "llamita" / "__init__.py").is_file()


def digest(path: str) -> str:
    """12 hex digits that change with the code at `path`; of a checkout, with the code that affects results."""
    if is_checkout(path):
        return code_digest(file_digests(Path(path) / "llamita"))[:12]
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def model_class(path: str) -> type[Llama]:
    """The subclass of `Llama` that a Python file defines. Raises `UserError` unless it defines exactly one."""
    spec = importlib.util.spec_from_file_location(f"llamita_code_{digest(path)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UserError(f"--code {path}: cannot be imported ({error})") from None
    own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == spec.name]
    found = [c for c in own if issubclass(c, Llama)]
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise UserError(f"--code {path}: must define one subclass of llamita.model.Llama, but defines {names}")
    return found[0]


def train_with_checkout(config: RunConfig, path: str) -> None:
    """Train the run of `config` with the code of another checkout, in a process of its own.

    Raises `UserError` and `DivergenceError` as `train` does, and `RuntimeError` with the last line of its traceback.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(path).resolve())}
    tables = json.dumps(config.tables())
    command = [sys.executable, "-c", CHECKOUT_PROGRAM]
    ended = subprocess.run(command, input=tables, env=environment, capture_output=True, text=True, encoding="utf-8")
    if ended.returncode == 0:
        return
    lines = ended.stderr.strip().splitlines() or [f"its process ended with exit code {ended.returncode}"]
    if ended.returncode != MISTAKE:
        raise RuntimeError(f"{path}: {lines[-1]}")
    raise (DivergenceError if DIVERGED in lines[-1] else UserError)(lines[-1])
