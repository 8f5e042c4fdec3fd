"""OpenMP threads spin briefly, unless the user says otherwise; the number of threads depends on the model."""

import os
import subprocess
import sys

import pytest

from llamita import _bound_spinning
from llamita.config import ExecutionConfig, ModelConfig
from llamita.runtime.hardware import choose_hardware
from llamita.runtime.threads import choose_threads

SMALL = ModelConfig(hidden_size=16, num_heads=2, max_seq_len=16)
LARGE = ModelConfig(hidden_size=512, max_seq_len=256)


def spinning_of_a_process(first: str, **environment: str) -> str:
    """GOMP_SPINCOUNT as torch's OpenMP sees it in a process that begins with the statement `first`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = f"{first}; import os, torch; print(os.environ.get('GOMP_SPINCOUNT'))"
    words = [sys.executable, "-c", code]
    return subprocess.run(words, env={**kept, **environment}, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("first", ["import llamita", "from llamita.model import Llama", "import llamita.cli.main"])
def test_importing_llamita_bounds_the_spinning_before_torch_is_loaded(first):
    assert spinning_of_a_process(first) == "2000"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_the_value_of_the_user_is_left_alone(environment, expected):
    assert spinning_of_a_process("import llamita", **environment) == expected


def test_an_environment_without_a_policy_gets_one():
    environment: dict[str, str] = {}
    _bound_spinning(environment)
    assert environment == {"GOMP_SPINCOUNT": "2000"}


def test_threads_are_a_function_of_model_shape_and_cores():
    assert choose_threads(SMALL, cores=64) == 1
    assert choose_threads(LARGE, cores=64) == 64
    assert choose_threads(LARGE, cores=2) == 2
    assert choose_threads(None, cores=8) == 8


def test_more_of_a_model_never_gets_fewer_threads():
    threads = [choose_threads(ModelConfig(hidden_size=16 * n, num_heads=1, max_seq_len=64), 32) for n in range(1, 65)]
    assert threads == sorted(threads)
    assert threads[0] == 1
    assert threads[-1] == 32


def test_requested_threads_are_used():
    assert choose_hardware(ExecutionConfig(device="cpu", threads=3), model=SMALL).threads == 3
    assert choose_hardware(ExecutionConfig(device="cpu"), model=SMALL).threads == 1
