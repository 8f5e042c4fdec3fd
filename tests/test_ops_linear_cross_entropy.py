"""The fused kernel of head and loss against torch's own operations in fp64."""

import math

import pytest
import torch
from tolerances import BF16, TOLERANCE, assert_rounded_once, gradients, randn, relative_error, to_fp64, with_grad
from torch import Tensor
from torch.nn import functional

from llamita.ops.cpu import cross_entropy
from llamita.ops.cpu.cross_entropy import linear_cross_entropy


def torchs_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")


def assert_same_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """The reference uses the weight rounded to bf16, as the kernel does."""
    hidden, weight = with_grad(hidden, weight)
    narrow = weight.detach().to(BF16).requires_grad_()
    scale = torch.tensor(1 / len(targets))
    found = gradients(lambda *x: linear_cross_entropy(*x, targets), (hidden, weight), scale)
    expected = gradients(lambda *x: torchs_loss(*x, targets), (to_fp64(hidden), to_fp64(narrow)), scale)
    assert found[0].dtype == found[2].dtype == torch.float32
    assert found[0].item() == pytest.approx(expected[0].item(), rel=2e-3)  # roundings of logits partly cancel
    assert relative_error(found[1], expected[1]) < TOLERANCE
    assert relative_error(found[2], expected[2]) < TOLERANCE


def random_targets(tokens: int, vocab_size: int) -> Tensor:
    targets = torch.randint(vocab_size, (tokens,), generator=torch.Generator().manual_seed(3))
    targets[::7] = -100
    return targets


@pytest.mark.parametrize("vocab_size", [1, 2, 65, 257, 10000])
def test_the_loss_matches_torch(vocab_size):
    weight = 0.3 * randn(vocab_size, 32, seed=1, dtype=torch.float32)
    assert_same_loss(randn(300, 32), weight, random_targets(300, vocab_size))


@pytest.mark.parametrize(("logits", "least", "tokens"), [(1, 256, 600), (65 * 16, 1, 100), (65, 1, 3), (1, 16, 16)])
def test_the_loss_matches_torch_in_chunks_of_any_size(monkeypatch, logits, least, tokens):
    monkeypatch.setattr(cross_entropy, "MAX_LOGITS", logits)
    monkeypatch.setattr(cross_entropy, "MIN_TOKENS", least)
    assert_same_loss(randn(tokens, 24), randn(65, 24, seed=1, dtype=torch.float32), random_targets(tokens, 65))


def test_the_loss_takes_tensors_of_any_strides():
    weight = randn(32, 65, seed=1, dtype=torch.float32).T
    assert_same_loss(randn(32, 300).T, weight, random_targets(600, 65).view(300, 2)[:, 1])
    assert_same_loss(randn(300, 64)[:, ::2], weight, random_targets(300, 65))


EXACT = {
    "large": torch.linspace(-60, 60, 65).to(BF16),
    "one dominant": torch.full((65,), -60.0).index_fill(0, torch.tensor([64]), 60.0),
    "equal": torch.full((65,), 60.0),
    "zero": torch.zeros(65),
    "one impossible": randn(65).index_fill(0, torch.tensor([1]), -math.inf),
}


@pytest.mark.parametrize("kind", EXACT)
def test_the_loss_of_logits_exact_in_bf16_is_as_accurate_as_fp32(kind):
    """One-hot hidden states: each logit is an element of the weight."""
    hidden, weight = with_grad(torch.eye(4, dtype=BF16), torch.stack([EXACT[kind].float(), *torch.zeros(3, 65)], dim=1))
    for target in (0, 64):
        loss = linear_cross_entropy(hidden[:1], weight.nan_to_num(neginf=-1e30), torch.tensor([target]))
        (grad,) = torch.autograd.grad(loss, weight)
        logits = to_fp64(EXACT[kind].requires_grad_())
        expected = functional.cross_entropy(logits, torch.tensor(target))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert_rounded_once(grad[:, 0], torch.autograd.grad(expected, logits)[0])


def test_ignored_targets_add_no_loss_and_no_gradient():
    hidden, weight = with_grad(randn(10, 8), randn(65, 8, dtype=torch.float32))
    loss = linear_cross_entropy(hidden, weight, torch.full((10,), -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_no_tokens_have_no_loss_and_no_gradient():
    hidden, weight = with_grad(randn(0, 8), randn(65, 8, dtype=torch.float32))
    loss = linear_cross_entropy(hidden, weight, torch.empty(0, dtype=torch.int64))
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, weight)[0], torch.zeros(65, 8))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 33, 64])
def test_a_non_finite_logit_makes_a_non_finite_loss(bad, where):
    weight = torch.zeros(65, 8)
    weight[where] = bad
    assert not linear_cross_entropy(torch.ones(3, 8, dtype=BF16), weight, torch.tensor([1, 2, 3])).isfinite()


def test_a_target_outside_the_vocabulary_raises_index_error():
    with pytest.raises(IndexError, match="65"):
        linear_cross_entropy(randn(2, 8), randn(65, 8, dtype=torch.float32), torch.tensor([64, 65]))


def test_a_second_backward_through_the_loss_raises():
    """Its gradient is scaled in place."""
    weight = randn(65, 8, dtype=torch.float32).requires_grad_()
    loss = 3 * linear_cross_entropy(randn(5, 8), weight, torch.arange(5))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_gradients_the_loss_is_the_same():
    hidden, weight, targets = randn(30, 8), randn(65, 8, dtype=torch.float32), random_targets(30, 65)
    learning = linear_cross_entropy(hidden, weight.requires_grad_(), targets)
    assert torch.equal(linear_cross_entropy(hidden, weight.detach(), targets), learning.detach())


def test_a_bf16_weight_has_a_bf16_gradient():
    hidden, weight, targets = *with_grad(randn(30, 8), randn(65, 8, seed=1)), random_targets(30, 65)
    found = gradients(lambda *x: linear_cross_entropy(*x, targets), (hidden, weight), torch.tensor(1.0))
    expected = gradients(lambda *x: torchs_loss(*x, targets), (to_fp64(hidden), to_fp64(weight)), torch.tensor(1.0))
    assert found[2].dtype == BF16
    assert relative_error(found[2], expected[2]) < TOLERANCE
