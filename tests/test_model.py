"""The model against Hugging Face's Llama, torch's own layers and the formulas of the papers: never against itself."""

import dataclasses
import random

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import silu
from transformers import LlamaConfig, LlamaForCausalLM

from llamita.model import Attention, Block, Llama, ModelConfig, RMSNorm, SwiGLU
from llamita.model.init import ROWS_PER_BLOCK, normal

NUM_DRAWN = 16


def drawn_config(number: int) -> ModelConfig:
    """One of many shapes, which cover MHA, GQA and MQA, tied and untied embeddings, and all head sizes."""
    rng = random.Random(number)
    num_heads = rng.choice([2, 4, 6])
    head_dim = (6, 10, 48, 16)[number % 4]
    return ModelConfig(
        vocab_size=rng.randint(11, 97),
        hidden_size=num_heads * head_dim if number % 5 else 36,  # every fifth: heads wider or narrower than hidden
        intermediate_size=rng.randint(9, 70),
        num_layers=rng.randint(1, 3),
        num_heads=num_heads,
        num_kv_heads=(num_heads, num_heads // 2, 1)[number % 3],
        head_dim=head_dim,
        max_seq_len=rng.randint(20, 96),
        rope_theta=rng.choice([100.0, 10000.0, 500000.0]),
        norm_eps=rng.choice([1e-6, 1e-5]),
        tie_embeddings=number // 2 % 2 == 0,
    )


def hugging_face(config: ModelConfig) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_seq_len,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=config.tie_embeddings,
            attn_implementation="eager",
        )
    ).eval()


def enlarge(model: torch.nn.Module) -> None:
    """Weights at the scale of a trained model: attention is sharp, logits are of order 1, gains are not 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[1] ** 0.5)


def twins(config: ModelConfig) -> tuple[Llama, LlamaForCausalLM]:
    """The two models with the same weights."""
    theirs, ours = hugging_face(config), Llama(config).eval()
    enlarge(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def small_model(seed: int = 0, **changes) -> Llama:
    shape = {"vocab_size": 31, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "max_seq_len": 32}
    model = Llama(ModelConfig(**{**shape, **changes}))
    torch.manual_seed(seed)
    enlarge(model)
    return model.eval()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max().clamp(min=1)).item()


def drawn_ids(config: ModelConfig, *shape: int) -> torch.Tensor:
    return torch.randint(config.vocab_size, shape)


# Against Hugging Face


@pytest.mark.parametrize("number", range(NUM_DRAWN))
def test_logits_are_those_of_hugging_face_at_every_length(number):
    torch.manual_seed(number)
    config = drawn_config(number)
    ours, theirs = twins(config)
    for seq in {1, 2, random.Random(number).randint(3, config.max_seq_len), config.max_seq_len}:
        ids = drawn_ids(config, 2, seq)
        with torch.no_grad():
            expected = theirs(ids).logits
            assert expected.abs().max() > 1  # not a comparison of zeros
            assert distance(expected, ours(ids)) < 2e-5


@pytest.mark.parametrize("number", range(NUM_DRAWN))
def test_every_gradient_is_that_of_hugging_face(number):
    torch.manual_seed(number)
    config = drawn_config(number)
    ours, theirs = twins(config)
    ids, targets = drawn_ids(config, 2, config.max_seq_len), drawn_ids(config, 2, config.max_seq_len)
    targets[0, 3:9] = -100
    ours(ids, targets).backward()
    torch_cross_entropy(theirs(ids).logits.flatten(0, 1), targets.flatten()).backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert expected.keys() == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - expected[name]).norm() < 1e-4 * expected[name].norm(), name


def test_the_random_shapes_cover_all_variants():
    configs = [drawn_config(number) for number in range(NUM_DRAWN)]
    assert any(c.num_kv_heads == c.num_heads for c in configs)  # plain multi-head
    assert any(1 < c.num_kv_heads < c.num_heads for c in configs)  # grouped
    assert any(c.num_kv_heads == 1 < c.num_heads for c in configs)  # multi-query
    assert {6, 10, 48} <= {c.head_dim for c in configs}
    assert {c.tie_embeddings for c in configs} == {True, False}
    assert len({c.rope_theta for c in configs}) == 3
    assert any(c.hidden_size != c.num_heads * c.head_dim for c in configs)


@pytest.mark.parametrize("number", range(6))
def test_weights_load_into_hugging_face_by_name_and_back(number):
    config = drawn_config(number)
    ours, theirs = Llama(config, seed=number), hugging_face(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = drawn_ids(config, 1, 5)
    torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=2e-5, rtol=0)
    again = Llama(config, seed=number + 1)
    again.load_state_dict(theirs.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("number", range(6))
def test_parameters_are_counted_by_group_as_hugging_face_has_them(number):
    config = drawn_config(number)
    theirs = dict(hugging_face(config).named_parameters())

    def count(mark: str) -> int:
        return sum(p.numel() for name, p in theirs.items() if f"{mark}." in name)

    marks = {"embedding": "embed_tokens", "attention": "self_attn", "feed_forward": "mlp", "head": "lm_head"}
    expected = {group: count(mark) for group, mark in marks.items()} | {"norm": count("norm")}  # and layernorm
    counted = Llama(config).num_parameters()
    assert counted == expected
    assert sum(counted.values()) == sum(p.numel() for p in theirs.values())
    assert (counted["head"] == 0) == config.tie_embeddings


# Initial weights


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    config = drawn_config(1)
    torch.manual_seed(1)
    first = Llama(config, seed=7)
    torch.manual_seed(2)  # nothing outside of the seed matters
    second, other = Llama(config, seed=7), Llama(config, seed=8)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.dim() < 2 or not torch.isclose(a, c).all(), name


def test_every_matrix_is_sampled_independently_with_the_right_standard_deviation():
    model = Llama(ModelConfig(vocab_size=500, hidden_size=64, num_layers=8, num_heads=4))
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert (parameter == 1).all(), name
        else:
            expected = parameter.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                expected /= 4  # sqrt(2 * num_layers)
            assert abs(parameter.std() / expected - 1) < 0.05, name
            assert abs(parameter.mean()) < 0.1 * expected, name
    layers = [block.self_attn.q_proj.weight.flatten() for block in model.model.layers]
    correlations = torch.corrcoef(torch.stack([*layers, model.model.layers[0].self_attn.k_proj.weight.flatten()]))
    assert (correlations - torch.eye(len(correlations))).abs().max() < 0.1


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_copy_heads_output_what_they_attend_to(kv_heads):
    config = ModelConfig(vocab_size=50, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=kv_heads)
    copying, random = Llama(dataclasses.replace(config, head_init="copy")), Llama(config)
    for block, other in zip(copying.model.layers, random.model.layers, strict=True):
        for head in range(4):
            seen = slice(16 * (head * kv_heads // 4), 16 * (head * kv_heads // 4) + 16)
            passed_on, turned = (
                layer.self_attn.o_proj.weight[:, 16 * head : 16 * head + 16] @ layer.self_attn.v_proj.weight[seen]
                for layer in (block, other)
            )  # (hidden, hidden)
            assert torch.linalg.eigvalsh(passed_on).min() > -1e-5  # positive semidefinite,
            assert passed_on.trace() > 0.8 * 2 * 16  # and close to twice the identity
            assert abs(turned.trace()) < 8


def test_a_row_block_is_the_same_whatever_rows_follow():
    whole = normal((3 * ROWS_PER_BLOCK + 7, 5), 1.0, seed=3, name="w")
    for blocks in (1, 2, 3):
        rows = blocks * ROWS_PER_BLOCK
        assert torch.equal(normal((rows, 5), 1.0, seed=3, name="w"), whole[:rows])
    assert not torch.equal(whole[:ROWS_PER_BLOCK], whole[ROWS_PER_BLOCK : 2 * ROWS_PER_BLOCK])


# Attention masks


def test_a_later_token_changes_no_earlier_logit():
    model, ids = small_model(), torch.randint(31, (1, 14))
    before = model(ids)
    for place in range(14):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % 31
        after = model(changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(dim=-1).all()  # and every later one does


def test_a_packed_row_equals_its_documents_run_apart():
    model, lengths = small_model(), [3, 1, 9, 5]
    documents = [torch.randint(31, (1, length)) for length in lengths]
    document_ids = torch.repeat_interleave(torch.tensor([4, 0, 7, 2]), torch.tensor(lengths)).unsqueeze(0)
    apart = torch.cat([model(document) for document in documents], dim=1)
    packed = model(torch.cat(documents, dim=1), document_ids=document_ids)
    assert distance(apart, packed) < 1e-5
    assert distance(apart, model(torch.cat(documents, dim=1))) > 0.1  # without document_ids they attend to each other


def test_rows_of_a_batch_may_hold_different_documents():
    model = small_model()
    ids = torch.randint(31, (2, 8))
    document_ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 2, 2]])
    packed = model(ids, document_ids=document_ids)
    assert distance(model(ids[:1, 3:]), packed[:1, 3:]) < 1e-5
    assert distance(model(ids[1:, :6]), packed[1:, :6]) < 1e-5


def test_a_packed_row_has_the_gradients_of_its_documents():
    model = small_model()
    first, second = torch.randint(31, (1, 6)), torch.randint(31, (1, 4))
    ids = torch.cat((first, second), dim=1)
    document_ids = torch.tensor([[0] * 6 + [1] * 4])
    apart = torch.autograd.grad(
        model(first, first, reduction="sum") + model(second, second, reduction="sum"), list(model.parameters())
    )
    packed = torch.autograd.grad(model(ids, ids, document_ids=document_ids, reduction="sum"), list(model.parameters()))
    for a, b in zip(apart, packed, strict=True):
        assert (a - b).norm() < 1e-5 * a.norm()


def test_explicit_positions_equal_the_default():
    model, ids = small_model(), torch.randint(31, (3, 11))
    default = model(ids)
    assert torch.equal(model(ids, positions=torch.arange(11)), default)
    assert torch.equal(model(ids, positions=torch.arange(11).expand(3, 11)), default)


def test_only_relative_positions_matter():
    model, ids = small_model(), torch.randint(31, (2, 11))
    shifts = torch.tensor([[4], [21]])
    assert distance(model(ids), model(ids, positions=torch.arange(11) + shifts)) < 2e-5
    assert distance(model(ids), model(ids, positions=2 * torch.arange(11))) > 0.1


def test_too_long_a_sequence_is_refused():
    model = small_model(max_seq_len=8)
    assert model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 31)
    with pytest.raises(ValueError, match=r"9 tokens .* 8"):
        model(torch.zeros(1, 9, dtype=torch.long))


# Dropout


def test_dropout_drops_in_training_only():
    model, ids = small_model(dropout=0.3), torch.randint(31, (2, 9))
    plain = small_model()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(ids), plain(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_training_without_dropout_is_deterministic():
    model, ids = small_model(), torch.randint(31, (2, 9))
    evaluated = model(ids)
    assert torch.equal(model.train()(ids), evaluated)


# The components, against torch's own and against their formulas


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_matches_torch(dtype, scale):
    ours, theirs = RMSNorm(24, 1e-5).to(dtype), torch.nn.RMSNorm(24, 1e-5, dtype=dtype)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.uniform_(0.5, 1.5))
    mine = (scale * torch.randn(3, 5, 24)).to(dtype).requires_grad_()
    copy = mine.detach().clone().requires_grad_()
    grad = torch.randn(3, 5, 24).to(dtype)
    ours(mine).backward(grad)
    theirs(copy).backward(grad)
    assert ours(mine).dtype == dtype
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    torch.testing.assert_close(ours(mine), theirs(copy), **tolerance)
    torch.testing.assert_close(mine.grad * scale, copy.grad * scale, **tolerance)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, **{k: 10 * v for k, v in tolerance.items()})


def test_swiglu_is_its_formula():
    layer, x = SwiGLU(8, 12), torch.randn(2, 3, 8)
    gate, up, down = layer.gate_proj.weight, layer.up_proj.weight, layer.down_proj.weight
    a = torch.einsum("bsh,ih->bsi", x, gate)
    expected = torch.einsum("bsi,hi->bsh", a * torch.sigmoid(a) * torch.einsum("bsh,ih->bsi", x, up), down)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x), (silu(x @ gate.T) * (x @ up.T)) @ down.T)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_attention_is_its_formula_head_by_head(num_kv_heads):
    config = ModelConfig(hidden_size=24, num_heads=4, num_kv_heads=num_kv_heads, head_dim=10)
    layer, x = Attention(config), torch.randn(2, 7, 24)
    expected = torch.zeros(2, 7, 24)
    positions, triangle = torch.arange(7), torch.ones(7, 7).tril()
    for head in range(4):
        shared = head // (4 // num_kv_heads)
        q, k, v = (x @ p.weight.unflatten(0, (-1, 10))[h].T
                   for p, h in ((layer.q_proj, head), (layer.k_proj, shared), (layer.v_proj, shared)))  # fmt: skip
        q, k = (layer.rope.rotate(t.unsqueeze(1), positions).squeeze(1) for t in (q, k))
        weights = (q @ k.mT / 10**0.5).exp() * triangle
        mixed = weights / weights.sum(-1, keepdim=True) @ v  # (batch, seq, head_dim)
        expected += mixed @ layer.o_proj.weight[:, 10 * head : 10 * head + 10].T
    torch.testing.assert_close(layer(x, positions), expected)


def test_a_block_adds_the_outputs_of_its_two_pre_norm_layers():
    block = Block(ModelConfig(hidden_size=24, num_heads=4)).eval()
    x, positions = torch.randn(2, 5, 24), torch.arange(5)
    middle = x + block.self_attn(block.input_layernorm(x), positions)
    expected = middle + block.mlp(block.post_attention_layernorm(middle))
    assert torch.equal(block(x, positions), expected)
