"""Results of fused kernels are bitwise the same for any number of threads, of OpenMP or of Python."""

from collections.abc import Callable

import pytest
import torch
from tolerances import gradients, randn, with_grad
from torch import Tensor

from llamita.jit import pool
from llamita.ops.cpu import attention_tiles
from llamita.ops.cpu.adamw import adamw
from llamita.ops.cpu.attention import attention
from llamita.ops.cpu.chunks import CHUNK
from llamita.ops.cpu.cross_entropy import linear_cross_entropy
from llamita.ops.cpu.global_norm import global_norm
from llamita.ops.cpu.norm import rms_norm
from llamita.ops.cpu.rope import rope
from llamita.ops.cpu.swiglu import swiglu
from llamita.optim.adamw import Row

SIZES = (1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5, 0)


def random_rows() -> list[Row]:
    return [tuple(randn(size, seed=4 * size + i, dtype=torch.float32).abs() for i in range(4)) for size in SIZES]


def attend() -> tuple[Tensor, ...]:
    q, k, v, grad = (randn(2, heads, 150, 16, seed=heads) for heads in (4, 2, 2, 4))
    return gradients(attention, with_grad(q, k, v), grad)


def attend_in_blocks() -> tuple[Tensor, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_tiles, "supports", lambda tensors: False)
        return attend()


def score() -> tuple[Tensor, ...]:
    targets = torch.arange(600) % 301 - 1  # one of them is ignored
    inputs = with_grad(randn(600, 24), randn(300, 24, dtype=torch.float32))
    return gradients(lambda *x: linear_cross_entropy(*x, targets), inputs, torch.tensor(0.1))


def normalize() -> tuple[Tensor, ...]:
    inputs = with_grad(randn(2000, 48, dtype=torch.float32), randn(48, dtype=torch.float32))
    return gradients(lambda *x: rms_norm(*x, 1e-5), inputs, randn(2000, 48, seed=1))


def gate() -> tuple[Tensor, ...]:
    return gradients(swiglu, with_grad(randn(300, 200), randn(300, 200, seed=1)), randn(300, 200, seed=2))


def rotate() -> tuple[Tensor, ...]:
    angles = torch.outer(torch.arange(50).float(), 10 ** -torch.linspace(0, 4, 8))
    tables = angles.cos(), angles.sin()
    return gradients(lambda x: rope(x, *tables, torch.arange(50)), with_grad(randn(3, 4, 50, 16)), randn(3, 4, 50, 16))


def update() -> tuple[Tensor, ...]:
    rows = random_rows()
    adamw(rows, 1e-2, 0.9, 0.95, 1e-8, 0.1, 3)
    return tuple(tensor for row in rows for tensor in row)


def norm_of_all() -> tuple[Tensor, ...]:
    return (global_norm([tensor for row in random_rows() for tensor in row]),)


@pytest.fixture
def threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("threads_as_before")
@pytest.mark.parametrize("compute", [attend, attend_in_blocks, score, normalize, gate, rotate, update, norm_of_all])
def test_results_do_not_depend_on_the_number_of_threads_or_their_kind(monkeypatch, compute: Callable):
    torch.set_num_threads(1)
    expected = compute()
    found = []
    for threads in (2, 5):
        torch.set_num_threads(threads)
        found.append(compute())
        with monkeypatch.context() as patch:
            patch.setattr(pool, "_parallel", lambda has_torch: pool._in_python_threads)
            found.append(compute())
    for result in found:
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
