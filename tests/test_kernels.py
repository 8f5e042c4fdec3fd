"""The kernels with products in them, attention and the loss, against torch's own operations in fp64."""

import math
from functools import partial

import pytest
import torch
from nearness import (
    BF16,
    LAYOUTS,
    NEAR,
    ROUNDING,
    assert_rounded_once,
    distance,
    drawn,
    gradients,
    learned,
    needs_bf16_products,
    wide,
)
from torch import Tensor
from torch.nn import functional

from llamita.ops.cpu import attention_in_blocks, attention_in_tiles, cross_entropy
from llamita.ops.cpu.attention import blocked_attention
from llamita.ops.cpu.cross_entropy import linear_cross_entropy

# Attention


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


BLOCKS, TILES = attention_in_blocks.QUERIES, 0
"""Queries of a block: so many are multiplied by torch; fewer in tiles, where the processor can and head_dim allows."""
both_ways = pytest.mark.parametrize("queries", [BLOCKS, TILES])


def assert_attends(shape: tuple[int, int, int, int, int], queries: int, layout: str = "positions first") -> None:
    batch, heads, kv_heads, seq, head_dim = shape
    counts = enumerate((heads, kv_heads, kv_heads, heads))
    q, k, v, grad = (LAYOUTS[layout](drawn(batch, count, seq, head_dim, seed=i)) for i, count in counts)
    inputs = learned(q, k, v)
    found = gradients(partial(blocked_attention, queries=queries), inputs, grad)
    expected = gradients(plain_attention, tuple(wide(x) for x in inputs), grad)
    if seq == 1:  # nothing to choose from: what a query and a key are does not matter
        assert found[1].abs().max() + found[2].abs().max() < 1e-2 * grad.abs().max()
        found, expected = (found[0], found[3]), (expected[0], expected[3])
    for ours, theirs in zip(found, expected, strict=True):
        assert distance(ours, theirs) < NEAR
    # An element is a sum of parts that are rounded and may cancel: it errs by a share of the largest.
    for ours, theirs in zip(found, expected, strict=True):
        assert ((ours - theirs).abs() <= 4 * ROUNDING * theirs.abs().max()).all()


@both_ways
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 8),
        (2, 2, 1, 2, 24),
        (1, 3, 3, 5, 1),
        (1, 4, 4, 63, 13),
        (2, 6, 2, 64, 40),
        (1, 3, 3, 127, 128),
        (2, 4, 1, 128, 64),
        (1, 2, 2, 129, 72),
        (2, 6, 3, 200, 32),
        (1, 2, 1, 300, 20),
        (1, 1, 1, 1, 16),
        (1, 2, 2, 2, 16),
        (3, 6, 2, 33, 48),
        (1, 4, 4, 256, 16),
        (2, 4, 2, 257, 80),
        (1, 2, 1, 700, 112),
        (2, 20, 4, 90, 8),
        (1, 2, 2, 257, 22),
    ],
    ids=str,
)
def test_attention_is_that_of_torch(shape, queries):
    assert_attends(shape, queries)


@both_ways
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 4, 2, 130, 16), (1, 2, 2, 9, 24)], ids=str)
def test_attention_takes_heads_wherever_they_lie_in_memory(shape, layout, queries):
    assert_attends(shape, queries, layout)


@needs_bf16_products
def test_few_queries_are_multiplied_in_tiles_and_many_by_torch(monkeypatch):
    ways = []
    for way in (attention_in_blocks, attention_in_tiles):
        monkeypatch.setattr(way, "attend", lambda *_, way=way: ways.append(way))
    for head_dim, queries in ((8, 0), (16, 64), (16, 65), (13, 0)):
        blocked_attention(*(drawn(1, 2, 5, head_dim) for _ in "qkv"), queries)
    assert ways == [attention_in_tiles, attention_in_tiles, attention_in_blocks, attention_in_blocks]


@pytest.mark.parametrize(("queries", "scores"), [(16, 1 << 21), (16, 16 * 100 * 3), (128, 1), (7, 7 * 100 * 4), (1, 1)])
def test_attention_is_the_same_in_blocks_of_any_size(monkeypatch, queries, scores):
    monkeypatch.setattr(attention_in_blocks, "SCORES", scores)
    assert_attends((2, 5, 5, 100, 13), queries)
    assert_attends((2, 6, 2, 100, 25), queries, "contiguous")


@pytest.mark.parametrize("queries", [1, 2, 7, 16, 63, 64])
def test_attention_is_the_same_in_tiles_of_any_number_of_queries(queries):
    assert_attends((2, 5, 5, 100, 16), queries)
    assert_attends((1, 4, 2, 300, 48), queries, "contiguous")


@both_ways
@pytest.mark.parametrize("shape", [(0, 2, 2, 5, 16), (2, 2, 1, 0, 16)], ids=str)
def test_attention_of_nothing_is_nothing(shape, queries):
    batch, heads, kv_heads, seq, head_dim = shape
    inputs = learned(*(drawn(batch, count, seq, head_dim) for count in (heads, kv_heads, kv_heads)))
    out, *grads = gradients(partial(blocked_attention, queries=queries), inputs, inputs[0])
    assert out.shape == inputs[0].shape
    assert [grad.shape for grad in grads] == [x.shape for x in inputs]


@both_ways
def test_attention_looks_at_nothing_behind_the_query(queries):
    q, k, v = (drawn(1, 2, 200, 16, seed=seed) for seed in range(3))
    before = blocked_attention(q, k, v, queries)
    k[:, :, 150:], v[:, :, 150:] = 100, -100
    after = blocked_attention(q, k, v, queries)
    assert torch.equal(before[:, :, :150], after[:, :, :150])
    assert not torch.equal(before[:, :, 150:], after[:, :, 150:])


@both_ways
def test_attention_that_is_sure_picks_one_value(queries):
    """Scores of some thousands, as of a model that goes wrong: no infinity, no NaN, and the right key."""
    keys = (torch.arange(128) + 1).view(1, 1, 128, 1) * torch.ones(16)
    q, k, v = learned((keys.flip(2) * 0 + 100).to(BF16), keys.to(BF16), drawn(1, 1, 128, 16))
    out = blocked_attention(q, k, v, queries)
    torch.testing.assert_close(out, v)  # each query looks at itself: of its keys the largest
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", range(3))
@both_ways
def test_attention_hands_on_what_is_no_number(bad, which, queries):
    inputs = [drawn(1, 2, 300, 16, seed=seed) for seed in range(3)]
    inputs[which][0, 1, 3, 5] = bad
    out = blocked_attention(*inputs, queries)
    seen = out[0, 1, 3] if which == 0 else out[0, 1, 3:]  # a query concerns its own row, key and value all behind
    if which == 1 and math.isinf(bad):
        assert not seen.isfinite().all()  # a score of -inf is but a key that nobody looks at
    else:
        assert not seen.isfinite().all(dim=-1).any()
    assert out[0, 0].isfinite().all()


# Head and loss


def plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")


def assert_same_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """With the weight that the kernel multiplies with, which is bf16."""
    hidden, weight = learned(hidden, weight)
    narrow = weight.detach().to(BF16).requires_grad_()
    scale = torch.tensor(1 / len(targets))
    found = gradients(lambda *x: linear_cross_entropy(*x, targets), (hidden, weight), scale)
    expected = gradients(lambda *x: plain_loss(*x, targets), (wide(hidden), wide(narrow)), scale)
    assert found[0].dtype == found[2].dtype == torch.float32
    assert found[0].item() == pytest.approx(expected[0].item(), rel=2e-3)  # roundings of logits, both up and down
    assert distance(found[1], expected[1]) < NEAR
    assert distance(found[2], expected[2]) < NEAR


def drawn_targets(tokens: int, vocab_size: int) -> Tensor:
    targets = torch.randint(vocab_size, (tokens,), generator=torch.Generator().manual_seed(3))
    targets[::7] = -100
    return targets


@pytest.mark.parametrize("vocab_size", [1, 2, 65, 257, 10000])
def test_the_loss_is_that_of_torch(vocab_size):
    weight = 0.3 * drawn(vocab_size, 32, seed=1, dtype=torch.float32)
    assert_same_loss(drawn(300, 32), weight, drawn_targets(300, vocab_size))


@pytest.mark.parametrize(("logits", "least", "tokens"), [(1, 256, 600), (65 * 16, 1, 100), (65, 1, 3), (1, 16, 16)])
def test_the_loss_is_the_same_in_slices_of_any_size(monkeypatch, logits, least, tokens):
    monkeypatch.setattr(cross_entropy, "LOGITS", logits)
    monkeypatch.setattr(cross_entropy, "LEAST_TOKENS", least)
    assert_same_loss(drawn(tokens, 24), drawn(65, 24, seed=1, dtype=torch.float32), drawn_targets(tokens, 65))


def test_the_loss_takes_its_numbers_wherever_they_lie_in_memory():
    weight = drawn(32, 65, seed=1, dtype=torch.float32).T
    assert_same_loss(drawn(32, 300).T, weight, drawn_targets(600, 65).view(300, 2)[:, 1])
    assert_same_loss(drawn(300, 64)[:, ::2], weight, drawn_targets(300, 65))


EXACT = {
    "large": torch.linspace(-60, 60, 65).to(BF16),
    "one sure": torch.full((65,), -60.0).index_fill(0, torch.tensor([64]), 60.0),
    "equal": torch.full((65,), 60.0),
    "zero": torch.zeros(65),
    "one impossible": drawn(65).index_fill(0, torch.tensor([1]), -math.inf),
}


@pytest.mark.parametrize("kind", EXACT)
def test_of_logits_that_need_no_rounding_the_loss_is_as_exact_as_fp32(kind):
    """Hidden states that pick one column each: then logits are numbers of the weight."""
    hidden, weight = learned(torch.eye(4, dtype=BF16), torch.stack([EXACT[kind].float(), *torch.zeros(3, 65)], dim=1))
    for target in (0, 64):
        loss = linear_cross_entropy(hidden[:1], weight.nan_to_num(neginf=-1e30), torch.tensor([target]))
        (grad,) = torch.autograd.grad(loss, weight)
        logits = wide(EXACT[kind].requires_grad_())
        expected = functional.cross_entropy(logits, torch.tensor(target))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert_rounded_once(grad[:, 0], torch.autograd.grad(expected, logits)[0])


def test_what_is_ignored_is_worth_nothing():
    hidden, weight = learned(drawn(10, 8), drawn(65, 8, dtype=torch.float32))
    loss = linear_cross_entropy(hidden, weight, torch.full((10,), -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_no_tokens_have_no_loss_and_no_slope():
    hidden, weight = learned(drawn(0, 8), drawn(65, 8, dtype=torch.float32))
    loss = linear_cross_entropy(hidden, weight, torch.empty(0, dtype=torch.int64))
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, weight)[0], torch.zeros(65, 8))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 33, 64])
def test_a_logit_that_is_no_number_makes_a_loss_that_is_none(bad, where):
    weight = torch.zeros(65, 8)
    weight[where] = bad
    assert not linear_cross_entropy(torch.ones(3, 8, dtype=BF16), weight, torch.tensor([1, 2, 3])).isfinite()


def test_a_target_outside_of_the_vocabulary_is_refused_as_torch_does():
    with pytest.raises(IndexError, match="65"):
        linear_cross_entropy(drawn(2, 8), drawn(65, 8, dtype=torch.float32), torch.tensor([64, 65]))


def test_the_loss_goes_back_once_only_and_says_so():
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


def test_a_weight_that_is_bf16_has_a_gradient_that_is():
    hidden, weight, targets = *learned(drawn(30, 8), drawn(65, 8, seed=1)), drawn_targets(30, 65)
    found = gradients(lambda *x: linear_cross_entropy(*x, targets), (hidden, weight), torch.tensor(1.0))
    expected = gradients(lambda *x: plain_loss(*x, targets), (wide(hidden), wide(weight)), torch.tensor(1.0))
    assert found[2].dtype == BF16
    assert distance(found[2], expected[2]) < NEAR
