"""A model that computes with the kernels against the same weights in plain fp32: loss, gradients, what is learned."""

import math

import pytest
import torch
from nearness import distance
from runs import cache as cache
from runs import rows, tiny_config
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.generate.engine import generate_ids
from llamita.model import KVCache, Llama, ModelConfig
from llamita.train import acceleration, train
from llamita.train.hardware import Hardware

SIZES = {"vocab_size": 97, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_seq_len": 160}
SWITCHES = {
    "Llama": {},
    "grouped heads": {"num_kv_heads": 2},
    "multi-query, narrow heads": {"num_kv_heads": 1, "head_dim": 10},
    "a head of its own": {"tie_embeddings": False},
    "qk_norm": {"qk_norm": True, "num_kv_heads": 2},
    "gpt2-baseline": {"norm": "layer", "position": "learned", "mlp": "gelu", "bias": True},
    "post-norm": {"norm_position": "post"},
    "no norm, no positions": {"norm": "none", "position": "none", "mlp": "relu2"},
}
FAST = ("blocked_attention", "rms_norm", "gated_silu", "rotate", "linear_cross_entropy")


@pytest.fixture(autouse=True)
def threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def hardware(precision: str = "bf16") -> Hardware:
    return Hardware("cpu", precision, 2)


def models(**switches) -> tuple[Llama, Llama]:
    """(with kernels, plain): the same weights, away from where they are drawn, so that all of them matter."""
    fast, plain = (Llama(ModelConfig(**{**SIZES, **switches})) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for name, weight in plain.named_parameters():
        size = 0.1 if weight.dim() < 2 else 0.5 / math.sqrt(weight.shape[1])
        weight.data += size * torch.randn(weight.shape, generator=generator)
        fast.get_parameter(name).data.copy_(weight)
    return hardware().apply(fast), plain


def batch(seq: int = 150) -> tuple[Tensor, Tensor]:
    """ids, targets (3, seq), some of which are ignored."""
    ids = torch.randint(97, (3, seq + 1), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[1, 70:90] = -100
    return ids[:, :-1], targets


def assert_learns_alike(fast: Llama, plain: Llama, **options) -> None:
    """Some twenty roundings to bf16 one after the other leave a gradient 2 or 3 % off, without the kernels as well."""
    ids, targets = batch()
    with hardware().autocast():
        loss = fast(ids, targets, **options)
    expected = plain(ids, targets, **options)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    whole = torch.cat([gradient(weight) for weight in plain.parameters()]).norm().item()
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        error = (gradient(ours) - gradient(theirs)).norm().item()
        # (A bias of all keys shifts all scores of a query alike, so its slope is nothing but rounding.)
        assert error < 0.04 * gradient(theirs).norm().item() + 1e-4 * whole, name


def gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad.flatten()


@pytest.mark.parametrize("name", SWITCHES)
def test_a_model_with_kernels_has_the_loss_and_gradients_of_the_plain_one(name):
    assert_learns_alike(*models(**SWITCHES[name]))


def test_documents_packed_into_a_row_see_only_themselves():
    documents = torch.arange(150).expand(3, -1) // torch.tensor([[40], [77], [150]])
    assert_learns_alike(*models(num_kv_heads=2), document_ids=documents)


def test_positions_may_be_given():
    assert_learns_alike(*models(), positions=torch.arange(150).flip(0))
    assert_learns_alike(*models(), positions=torch.stack([torch.arange(150) + i for i in (0, 3, 10)]))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 129)], ids=str)
def test_short_and_odd_batches_have_the_plain_loss(shape):
    fast, plain = models(num_kv_heads=2)
    ids = torch.randint(97, shape)
    with hardware().autocast():
        loss = fast(ids, ids)
    assert loss.item() == pytest.approx(plain(ids, ids).item(), rel=1e-2)
    loss.backward()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)], ids=str)
def test_nothing_has_no_logits_and_no_loss(shape):
    fast, _ = models(num_kv_heads=2)
    ids = torch.empty(shape, dtype=torch.int64)
    with hardware().autocast():
        assert fast(ids).shape == (*shape, 97)
        loss = fast(ids, ids, reduction="sum")
    loss.backward()
    assert loss.item() == 0
    assert not any(gradient(weight).any() for weight in fast.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_kernels_compute_where_there_is_bf16_and_nowhere_else(monkeypatch, precision):
    called = set()
    for name in FAST:
        monkeypatch.setattr(acceleration, name, counted(name, called))
    model = hardware(precision).apply(Llama(ModelConfig(**SIZES)))
    ids, targets = batch(20)
    with hardware(precision).autocast():
        model(ids, targets, document_ids=torch.zeros_like(ids))
        assert called == (set(FAST[1:]) if precision == "bf16" else set())  # a mask is for the plain attention
        model(ids, targets)
    assert called == (set(FAST) if precision == "bf16" else set())
    called.clear()
    model(ids, targets)  # without autocast: fp32
    assert not called


def counted(name: str, called: set[str]):
    kernel = getattr(acceleration, name)

    def counting(*arguments):
        called.add(name)
        return kernel(*arguments)

    return counting


def test_in_fp32_a_model_computes_as_written_bit_for_bit():
    ids, targets = batch()
    plain, applied = Llama(ModelConfig(**SIZES)), hardware("fp32").apply(Llama(ModelConfig(**SIZES)))
    assert torch.equal(plain(ids, targets), applied(ids, targets))


@pytest.mark.parametrize("name", ["embed_tokens", "q_proj", "v_proj", "gate_proj", "down_proj", "layernorm", "lm_head"])
def test_a_weight_that_is_no_number_makes_a_loss_that_is_none(name):
    fast, _ = models(tie_embeddings=False)
    weight = next(weight for key, weight in fast.named_parameters() if name in key)
    ids, targets = batch()
    with torch.no_grad():
        weight.view(-1)[ids[0, 0] * 64 if name == "embed_tokens" else 5] = math.nan
    with hardware().autocast():
        assert fast(ids, targets).isnan()


@torch.no_grad()
def test_an_evaluated_loss_is_the_same_however_it_is_reduced():
    fast, plain = models(num_kv_heads=2)
    ids, targets = batch()
    with hardware().autocast():
        mean, total, each = (fast.eval()(ids, targets, reduction=kind) for kind in ("mean", "sum", "none"))
    expected = plain(ids, targets, reduction="none")
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-2)
    assert mean.item() == pytest.approx(total.item() / (targets != -100).sum().item(), rel=1e-6)
    assert each.sum().item() == pytest.approx(total.item(), rel=1e-3)
    assert distance(each, expected) < 0.02


@torch.inference_mode()
def test_prompts_of_different_lengths_are_read_into_a_cache():
    """The shorter ones are padded, at position -1."""
    fast, plain = models(num_kv_heads=2)
    ids, _ = batch(12)
    positions = torch.arange(12).expand(3, -1).clone()
    positions[1, 5:] = positions[2, 1:] = -1
    config = plain.config
    with hardware().autocast():
        found = fast(ids, positions=positions, cache=KVCache(config, 3, 160, torch.bfloat16))
    expected = plain(ids, positions=positions, cache=KVCache(config, 3, 160))
    assert distance(found[positions >= 0], expected[positions >= 0]) < 0.02
    assert found.isfinite().all()


def test_a_model_with_kernels_writes():
    fast, _ = models(max_seq_len=16)
    config = GenerationConfig(max_new_tokens=30, temperature=0.0)
    with hardware().autocast():
        steps = list(generate_ids(fast, [[1, 2, 3], [4]], config))
    assert len(steps) == 30
    assert all(token in range(97) for step in steps for token in step)


@pytest.mark.slow
def test_three_hundred_steps_in_bf16_end_where_fp32_ends(tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        config = tiny_config(
            "stories",
            output_dir=str(tmp_path / precision),
            precision=precision,
            tokenizer="bpe",
            vocab_size=512,
            max_documents=3000,
            hidden_size=64,
            num_layers=2,
            num_heads=2,
            max_seq_len=64,
            batch_size=16,
            max_steps=300,
            warmup_steps=30,
            learning_rate=3e-3,
            log_every=50,
            eval_every=300,
            eval_sequences=256,
            save_every=300,
        )
        losses[precision] = rows(train(config))[-1]["val_loss"]
    assert losses["fp32"] < 1
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-3)
