"""Fused causal attention, in tiles and in blocks, against torch's in fp64."""

import math

import pytest
import torch
from tolerances import (
    BF16,
    LAYOUTS,
    ROUNDING,
    TOLERANCE,
    gradients,
    needs_bf16_products,
    randn,
    relative_error,
    to_fp64,
    with_grad,
)
from torch import Tensor
from torch.nn import functional

from llamita.ops.cpu import attention_blocks, attention_tiles
from llamita.ops.cpu.attention import attention


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


IMPLEMENTATIONS = {"blocks": lambda tensors: False, "tiles": attention_tiles.supports}
"""Patches of `attention_tiles.supports`; if the processor or head_dim does not support tiles, both are blocks."""


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Select the implementation of attention."""
    monkeypatch.setattr(attention_tiles, "supports", IMPLEMENTATIONS[request.param])
    return request.param


@pytest.fixture(autouse=True)
def without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AMX, large heads use the tiles, too."""
    monkeypatch.setattr("llamita.ops.cpu.attention.has_amx", lambda: False)


both_implementations = pytest.mark.usefixtures("implementation")


def assert_attends(shape: tuple[int, int, int, int, int], layout: str = "positions first") -> None:
    batch, heads, kv_heads, seq, head_dim = shape
    counts = enumerate((heads, kv_heads, kv_heads, heads))
    q, k, v, grad = (LAYOUTS[layout](randn(batch, count, seq, head_dim, seed=i)) for i, count in counts)
    inputs = with_grad(q, k, v)
    found = gradients(attention, inputs, grad)
    expected = gradients(plain_attention, tuple(to_fp64(x) for x in inputs), grad)
    if seq == 1:  # a single key: the gradients of q and k are zero
        assert found[1].abs().max() + found[2].abs().max() < 1e-2 * grad.abs().max()
        found, expected = (found[0], found[3]), (expected[0], expected[3])
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < TOLERANCE
    # Elements are sums of rounded terms that may cancel: their error is relative to the largest element.
    for ours, theirs in zip(found, expected, strict=True):
        assert ((ours - theirs).abs() <= 4 * ROUNDING * theirs.abs().max()).all()


@both_implementations
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
def test_attention_matches_torch(shape):
    assert_attends(shape)


@both_implementations
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 4, 2, 130, 16), (1, 2, 2, 9, 24)], ids=str)
def test_attention_takes_heads_of_any_strides(shape, layout):
    assert_attends(shape, layout)


@needs_bf16_products
def test_even_head_dimensions_are_computed_in_tiles_and_odd_ones_in_blocks(monkeypatch):
    chosen = []
    for module in (attention_blocks, attention_tiles):
        monkeypatch.setattr(module, "forward", lambda *_, module=module: chosen.append(module))
    for head_dim in (8, 16, 13):
        attention(*(randn(1, 2, 5, head_dim) for _ in "qkv"))
    assert chosen == [attention_tiles, attention_tiles, attention_blocks]


@needs_bf16_products
@pytest.mark.parametrize("has_amx", [False, True])
def test_large_heads_use_blocks_where_torch_uses_amx(monkeypatch, has_amx):
    chosen = []
    monkeypatch.setattr("llamita.ops.cpu.attention.has_amx", lambda: has_amx)
    for module in (attention_blocks, attention_tiles):
        monkeypatch.setattr(module, "forward", lambda *_, module=module: chosen.append(module))
    for seq, head_dim in ((256, 32), (1024, 64)):
        attention(*(randn(1, 2, seq, head_dim) for _ in "qkv"))
    assert chosen == [attention_tiles, attention_blocks if has_amx else attention_tiles]


@needs_bf16_products
@pytest.mark.parametrize("which", range(3))
def test_tensors_with_odd_strides_are_computed_in_blocks(monkeypatch, which):
    monkeypatch.setattr(attention_tiles, "forward", lambda *_: pytest.fail("the tiles read pairs"))
    inputs = [randn(1, 2, 5, 16, seed=seed) for seed in range(3)]
    expected = [x.clone() for x in inputs]
    inputs[which] = randn(1, 2, 5, 17, seed=which)[..., :16]
    expected[which] = inputs[which].contiguous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_tiles, "supports", lambda tensors: False)
        blocks = attention(*expected)
    assert torch.equal(attention(*inputs), blocks)


@pytest.mark.parametrize(("queries", "scores"), [(16, 1 << 21), (16, 16 * 100 * 3), (128, 1), (7, 7 * 100 * 4), (1, 1)])
def test_attention_matches_torch_in_blocks_of_any_size(monkeypatch, queries, scores):
    monkeypatch.setattr(attention_tiles, "supports", lambda tensors: False)
    monkeypatch.setattr(attention_blocks, "BLOCK_Q", queries)
    monkeypatch.setattr(attention_blocks, "MAX_SCORES", scores)
    assert_attends((2, 5, 5, 100, 13))
    assert_attends((2, 6, 2, 100, 25), "contiguous")


@pytest.mark.parametrize("queries", [2, 4, 8, 16, 62, 64])
def test_attention_matches_torch_in_tiles_of_any_even_number_of_queries(monkeypatch, queries):
    monkeypatch.setattr(attention_tiles, "BLOCK_Q", queries)
    assert_attends((2, 5, 5, 100, 16))
    assert_attends((1, 4, 2, 300, 48), "contiguous")


@both_implementations
@pytest.mark.parametrize("shape", [(0, 2, 2, 5, 16), (2, 2, 1, 0, 16)], ids=str)
def test_attention_of_empty_tensors_is_empty(shape):
    batch, heads, kv_heads, seq, head_dim = shape
    inputs = with_grad(*(randn(batch, count, seq, head_dim) for count in (heads, kv_heads, kv_heads)))
    out, *grads = gradients(attention, inputs, inputs[0])
    assert out.shape == inputs[0].shape
    assert [grad.shape for grad in grads] == [x.shape for x in inputs]


@both_implementations
def test_attention_sees_no_key_after_the_query():
    q, k, v = (randn(1, 2, 200, 16, seed=seed) for seed in range(3))
    before = attention(q, k, v)
    k[:, :, 150:], v[:, :, 150:] = 100, -100
    after = attention(q, k, v)
    assert torch.equal(before[:, :, :150], after[:, :, :150])
    assert not torch.equal(before[:, :, 150:], after[:, :, 150:])


@both_implementations
def test_attention_with_one_dominant_score_picks_its_value():
    """Scores in the thousands, as in a diverging model: no infinity, no NaN, and the right key."""
    keys = (torch.arange(128) + 1).view(1, 1, 128, 1) * torch.ones(16)
    q, k, v = with_grad((keys.flip(2) * 0 + 100).to(BF16), keys.to(BF16), randn(1, 1, 128, 16))
    out = attention(q, k, v)
    torch.testing.assert_close(out, v)  # each query attends to its own key, the largest
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", range(3))
@both_implementations
def test_attention_propagates_non_finite_values(bad, which):
    inputs = [randn(1, 2, 300, 16, seed=seed) for seed in range(3)]
    inputs[which][0, 1, 3, 5] = bad
    out = attention(*inputs)
    seen = out[0, 1, 3] if which == 0 else out[0, 1, 3:]  # a query affects its own row, a key or value all later rows
    if which == 1 and math.isinf(bad):
        assert not seen.isfinite().all()  # a score of -inf only masks a key
    else:
        assert not seen.isfinite().all(dim=-1).any()
    assert out[0, 0].isfinite().all()
