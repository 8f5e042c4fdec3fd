"""The fused kernels of the optimizer: AdamW against its formulas and torch's, and the global norm of gradients."""

import dataclasses
import math

import pytest
import torch
from tolerances import BF16, randn
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from llamita.ops.cpu.adamw import adamw
from llamita.ops.cpu.chunks import CHUNK
from llamita.ops.cpu.global_norm import global_norm, scale_
from llamita.optim import AdamW, clip_grad_norm_
from llamita.optim.adamw import Row, Update, reference_adamw
from llamita.optim.dispatch import use_fused_kernel

# AdamW


SIZES = (1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5, 0)


def random_rows() -> list[Row]:
    return [tuple(randn(size, seed=4 * size + i, dtype=torch.float32).abs() for i in range(4)) for size in SIZES]


@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.4, 0.999), (0.0, 0.0)], ids=str)
def test_adamw_matches_the_reference(step, betas):
    update = Update(1e-2, *betas, 1e-8, 0.1, step)
    found, expected = random_rows(), random_rows()
    assert all(map(use_fused_kernel, found))
    adamw(found, **dataclasses.asdict(update))
    reference_adamw(expected, update)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_adamw_writes_only_into_the_parameters_and_their_state():
    memory = torch.full((4, 30), 7.0)
    memory[1] = 5.0  # the gradient
    adamw([tuple(memory[:, 3:20])], 1e-2, 0.9, 0.95, 1e-8, 0.1, 1)
    updated = memory[[0, 2, 3]] != 7
    assert updated[:, 3:20].all()
    assert not updated[:, :3].any()
    assert not updated[:, 20:].any()
    assert (memory[1] == 5).all()


PLAIN = {
    "gaps": lambda: nn.Parameter(torch.ones(6, 8)[:, ::2]),
    "columns first": lambda: nn.Parameter(torch.ones(6, 8).T),
    "fp64": lambda: nn.Parameter(torch.ones(5, dtype=torch.float64)),
    "bf16": lambda: nn.Parameter(torch.ones(5, dtype=BF16)),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_parameters_with_other_strides_or_dtypes_use_the_reference(kind):
    ours, theirs = ([PLAIN[kind](), nn.Parameter(torch.ones(7))] for _ in range(2))
    for parameter in (*ours, *theirs):
        parameter.grad = torch.full_like(parameter, 0.5)
    assert not use_fused_kernel(ours)
    for optimizer in (AdamW(ours, 1e-2), torch.optim.AdamW(theirs, 1e-2, (0.9, 0.95), weight_decay=0.1)):
        for _ in range(3):
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_parameters_with_different_step_counts_are_updated_as_by_torch():
    ours, theirs = ([nn.Parameter(randn(40, seed=i, dtype=torch.float32)) for i in range(3)] for _ in range(2))
    for parameters, kind in ((ours, AdamW), (theirs, torch.optim.AdamW)):
        optimizer = kind(parameters, 1e-2, (0.9, 0.95), weight_decay=0.1)
        for step in range(6):
            for index, parameter in enumerate(parameters):
                late = step < 2 * index
                parameter.grad = None if late else randn(40, seed=10 * step + index, dtype=torch.float32)
            optimizer.step()
        assert [int(optimizer.state[p]["step"]) for p in parameters] == [6, 4, 2]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# The global norm


def test_the_global_norm_is_accurate_to_fp32():
    tensors = [randn(size, seed=size, dtype=torch.float32) * 10**-i for i, size in enumerate(SIZES)]
    expected = torch.cat(tensors).double().norm()
    assert global_norm(tensors).item() == pytest.approx(expected.item(), rel=1e-6)
    assert global_norm([torch.zeros(5), torch.zeros(0)]).item() == 0


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, CHUNK - 1, CHUNK + 3])
def test_one_non_finite_gradient_makes_the_global_norm_non_finite(bad, where):
    parameters = [nn.Parameter(torch.zeros(9)), nn.Parameter(torch.zeros(CHUNK + 4))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[1].grad[where] = bad
    found = clip_grad_norm_(parameters, math.inf)
    assert found.isnan() if math.isnan(bad) else found.isposinf()


def test_the_norm_of_fake_tensors_is_a_fake_tensor_and_scaling_them_does_nothing():
    """The memory estimate steps on FakeTensors, whose memory a kernel must never read."""
    with FakeTensorMode():
        tensors = [torch.empty(9), torch.empty(CHUNK + 4)]
    norm = global_norm(tensors)
    assert isinstance(norm, FakeTensor)
    assert norm.shape == ()
    assert norm.dtype == torch.float32
    scale_(tensors, 0.5)
