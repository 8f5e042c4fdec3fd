"""The fused kernel of head and loss against torch's own operations in fp64."""

import math

import pytest
import torch
from nearness import BF16, NEAR, assert_rounded_once, distance, drawn, gradients, learned, wide
from torch import Tensor
from torch.nn import functional

from llamita.ops.cpu import cross_entropy
from llamita.ops.cpu.cross_entropy import linear_cross_entropy


def torchs_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")


def assert_same_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """With the weight that the kernel multiplies with, which is bf16."""
    hidden, weight = learned(hidden, weight)
    narrow = weight.detach().to(BF16).requires_grad_()
    scale = torch.tensor(1 / len(targets))
    found = gradients(lambda *x: linear_cross_entropy(*x, targets), (hidden, weight), scale)
    expected = gradients(lambda *x: torchs_loss(*x, targets), (wide(hidden), wide(narrow)), scale)
    assert found[0].dtype == found[2].dtype == torch.float32
    assert found[0].item() == pytest.approx(expected[0].item(), rel=2e-3)  # roundings of logits, both up and down
    assert distance(found[1], expected[1]) < NEAR
    assert distance(found[2], expected[2]) < NEAR


def drawn_targets(tokens: int, vocab_size: int) -> Tensor:
    targets = torch.randint(vocab_size, (tokens,), generator=torch.Generator().manual_seed(3))
    targets[::7] = -100
    return targets


@pytest.mark.parametrize("vocab_size", [1, 2, 65, 257, 10000])
def test_the_loss_is_torchs(vocab_size):
    weight = 0.3 * drawn(vocab_size, 32, seed=1, dtype=torch.float32)
    assert_same_loss(drawn(300, 32), weight, drawn_targets(300, vocab_size))


@pytest.mark.parametrize(("logits", "least", "tokens"), [(1, 256, 600), (65 * 16, 1, 100), (65, 1, 3), (1, 16, 16)])
def test_the_loss_is_torchs_in_chunks_of_any_size(monkeypatch, logits, least, tokens):
    monkeypatch.setattr(cross_entropy, "LOGITS", logits)
    monkeypatch.setattr(cross_entropy, "LEAST_TOKENS", least)
    assert_same_loss(drawn(tokens, 24), drawn(65, 24, seed=1, dtype=torch.float32), drawn_targets(tokens, 65))


def test_the_loss_takes_tensors_of_any_strides():
    weight = drawn(32, 65, seed=1, dtype=torch.float32).T
    assert_same_loss(drawn(32, 300).T, weight, drawn_targets(600, 65).view(300, 2)[:, 1])
    assert_same_loss(drawn(300, 64)[:, ::2], weight, drawn_targets(300, 65))


EXACT = {
    "large": torch.linspace(-60, 60, 65).to(BF16),
    "one dominant": torch.full((65,), -60.0).index_fill(0, torch.tensor([64]), 60.0),
    "equal": torch.full((65,), 60.0),
    "zero": torch.zeros(65),
    "one impossible": drawn(65).index_fill(0, torch.tensor([1]), -math.inf),
}


@pytest.mark.parametrize("kind", EXACT)
def test_the_loss_of_logits_exact_in_bf16_is_as_exact_as_fp32(kind):
    """Hidden states that pick one column each: then logits are numbers of the weight."""
    hidden, weight = learned(torch.eye(4, dtype=BF16), torch.stack([EXACT[kind].float(), *torch.zeros(3, 65)], dim=1))
    for target in (0, 64):
        loss = linear_cross_entropy(hidden[:1], weight.nan_to_num(neginf=-1e30), torch.tensor([target]))
        (grad,) = torch.autograd.grad(loss, weight)
        logits = wide(EXACT[kind].requires_grad_())
        expected = functional.cross_entropy(logits, torch.tensor(target))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert_rounded_once(grad[:, 0], torch.autograd.grad(expected, logits)[0])


def test_ignored_targets_add_no_loss_and_no_gradient():
    hidden, weight = learned(drawn(10, 8), drawn(65, 8, dtype=torch.float32))
    loss = linear_cross_entropy(hidden, weight, torch.full((10,), -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_no_tokens_have_no_loss_and_no_gradient():
    hidden, weight = learned(drawn(0, 8), drawn(65, 8, dtype=torch.float32))
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
        linear_cross_entropy(drawn(2, 8), drawn(65, 8, dtype=torch.float32), torch.tensor([64, 65]))


def test_a_second_backward_through_the_loss_raises():
    """Its gradient is scaled in its place."""
    weight = drawn(65, 8, dtype=torch.float32).requires_grad_()
    loss = 3 * linear_cross_entropy(drawn(5, 8), weight, torch.arange(5))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_gradients_the_loss_is_the_same():
    hidden, weight, targets = drawn(30, 8), drawn(65, 8, dtype=torch.float32), drawn_targets(30, 65)
    learning = linear_cross_entropy(hidden, weight.requires_grad_(), targets)
    assert torch.equal(linear_cross_entropy(hidden, weight.detach(), targets), learning.detach())


def test_a_bf16_weight_has_a_bf16_gradient():
    hidden, weight, targets = *learned(drawn(30, 8), drawn(65, 8, seed=1)), drawn_targets(30, 65)
    found = gradients(lambda *x: linear_cross_entropy(*x, targets), (hidden, weight), torch.tensor(1.0))
    expected = gradients(lambda *x: torchs_loss(*x, targets), (wide(hidden), wide(weight)), torch.tensor(1.0))
    assert found[2].dtype == BF16
    assert distance(found[2], expected[2]) < NEAR
