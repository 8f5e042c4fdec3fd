"""Each switch of the architecture against an independent reference: GPT-2, Qwen3 and Llama 3 of Hugging Face's
`transformers`, and a model written out here, formula by formula, in float64."""

import ast
import math
from pathlib import Path

import pytest
import torch
from test_model import distance, enlarge
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import llamita.model
from llamita.config import ExecutionConfig
from llamita.model import KVCache, LayerNorm, Llama, ModelConfig
from llamita.runtime.hardware import choose_hardware

SHAPE = {"vocab_size": 61, "hidden_size": 40, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "max_seq_len": 32}
GPT2 = {"norm": "layer", "position": "learned", "mlp": "gelu", "bias": True}
SWITCHED = [
    {"norm": "layer"},
    {"norm": "layer", "bias": True},
    {"norm": "none"},
    {"norm_position": "post"},
    {"norm_position": "post", "norm": "layer", "bias": True},
    {"position": "learned"},
    {"position": "none"},
    {"mlp": "gelu"},
    {"mlp": "relu2"},
    {"mlp": "relu2", "bias": True},
    {"bias": True},
    {"qk_norm": True},
    {"qk_norm": True, "norm": "none", "position": "none", "bias": True},
    {**GPT2, "num_kv_heads": 4},
    {**GPT2, "norm_position": "post", "tie_embeddings": False, "qk_norm": True},
]
EACH_SWITCH = pytest.mark.parametrize("switches", SWITCHED, ids=lambda s: "-".join(f"{v}".lower() for v in s.values()))


def enlarged(config: ModelConfig, seed: int = 0) -> Llama:
    """A model with weights at the scale of a trained one, including biases and learned positions."""
    torch.manual_seed(seed)
    model = Llama(config).eval()
    enlarge(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0, 0.3)
    return model


# Against Hugging Face


def gpt2_names(theirs: GPT2LMHeadModel) -> dict[str, Tensor]:
    """The weights of Hugging Face's GPT-2 under llamita's names; its matrices are transposed, its q, k, v in one."""
    weights = {name.removeprefix("transformer."): value for name, value in theirs.state_dict().items()}
    named = {"model.embed_tokens.weight": weights["wte.weight"], "model.embed_positions.weight": weights["wpe.weight"],
             "model.norm.weight": weights["ln_f.weight"], "model.norm.bias": weights["ln_f.bias"],
             "lm_head.weight": weights["wte.weight"]}  # fmt: skip
    parts = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj",
             "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}  # fmt: skip
    for layer in range(theirs.config.n_layer):
        for kind in ("weight", "bias"):
            for part, name in parts.items():
                named[f"model.layers.{layer}.{name}.{kind}"] = weights[f"h.{layer}.{part}.{kind}"].t()
            split = zip("qkv", weights[f"h.{layer}.attn.c_attn.{kind}"].chunk(3, dim=-1), strict=True)
            named.update({f"model.layers.{layer}.self_attn.{which}_proj.{kind}": part.t() for which, part in split})
    return named


def same_as(theirs: PreTrainedModel, ours: Llama, seq: int = 30) -> None:
    """Assert equal logits and, through them, equal gradients of the token embedding."""
    ids, targets = torch.randint(61, (2, seq)), torch.randint(61, (2, seq))
    expected = theirs(ids).logits
    assert expected.abs().max() > 1  # not a comparison of zeros
    assert distance(expected, ours(ids)) < 2e-5
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten()).backward()
    ours(ids, targets).backward()
    grad = theirs.get_input_embeddings().weight.grad
    assert (grad - ours.model.embed_tokens.weight.grad).norm() < 1e-4 * grad.norm()


@pytest.mark.parametrize("seed", range(3))
def test_the_gpt2_baseline_is_gpt2(seed):
    torch.manual_seed(seed)
    config = ModelConfig(**{**SHAPE, **GPT2, "num_kv_heads": 4})
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=61, n_embd=40, n_layer=2, n_head=4, n_positions=32, activation_function="gelu_new",
            layer_norm_epsilon=1e-5, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            wide = 1.5 / parameter.shape[0 if "c_" in name else -1] ** 0.5
            parameter.uniform_(0.5, 1.5) if "ln_" in name else parameter.normal_(
                0, wide if parameter.dim() > 1 else 0.3
            )
    ours = Llama(config).eval()
    ours.load_state_dict(gpt2_names(theirs), strict=True)
    same_as(theirs, ours)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_qk_norm_is_that_of_qwen3(num_kv_heads):
    config = ModelConfig(**{**SHAPE, "num_kv_heads": num_kv_heads}, head_dim=14, qk_norm=True, norm_eps=1e-6)
    ours = enlarged(config)
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=61, hidden_size=40, intermediate_size=config.intermediate_size, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=num_kv_heads, head_dim=14, max_position_embeddings=32,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}, rms_norm_eps=1e-6,
            tie_word_embeddings=True, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict(), strict=True)
    same_as(theirs, ours)


def llama3(factor: float, low: float, high: float, original: int, head_dim: int) -> tuple[Llama, LlamaForCausalLM]:
    """A small Llama with scaled wavelengths and the context of Llama 3.2, twice: ours and Hugging Face's."""
    config = ModelConfig(
        **{**SHAPE, "max_seq_len": 131_072}, head_dim=head_dim, rope_theta=500_000.0, rope_scaling_factor=factor,
        rope_low_freq_factor=low, rope_high_freq_factor=high, rope_original_max_seq_len=original,
    )  # fmt: skip
    scaling = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": factor, "low_freq_factor": low,
               "high_freq_factor": high, "original_max_position_embeddings": original}  # fmt: skip
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61, hidden_size=40, intermediate_size=config.intermediate_size, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=131_072,
            rope_parameters=scaling, rms_norm_eps=1e-5, tie_word_embeddings=True, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    ours = enlarged(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize(
    ("factor", "low", "high", "original", "head_dim"),
    [(32.0, 1.0, 4.0, 8192, 64), (8.0, 1.0, 4.0, 8192, 128), (4.0, 2.0, 16.0, 4096, 22)],
)
def test_rope_scaling_is_that_of_llama_3_up_to_position_131072(factor, low, high, original, head_dim):
    ours, theirs = llama3(factor, low, high, original, head_dim)
    everywhere = torch.arange(131_072).unsqueeze(0)
    cos, sin = theirs.model.rotary_emb(torch.zeros(1), everywhere)  # (1, positions, head_dim), both halves alike
    rope = ours.model.layers[0].self_attn.rope
    assert distance(cos[0, :, : head_dim // 2], rope.cos) < 2e-5
    assert distance(sin[0, :, : head_dim // 2], rope.sin) < 2e-5
    ids = torch.randint(61, (1, 20))
    with torch.no_grad():
        for last in (20, 4_096, 8_192, 50_000, 131_072):
            positions = torch.arange(last - 20, last).unsqueeze(0)
            spread = torch.linspace(0, last - 1, 20).long().unsqueeze(0)  # far apart, too
            for places in (positions, spread):
                expected = theirs(ids, position_ids=places, attention_mask=torch.ones(1, 20)).logits
                assert distance(expected, ours(ids, positions=places)) < 2e-5


def test_only_long_wavelengths_are_scaled():
    plain, scaled = (Llama(ModelConfig(**SHAPE, head_dim=64, rope_theta=5e5, rope_scaling_factor=factor))
                     for factor in (1.0, 32.0))  # fmt: skip
    angles = [m.model.layers[0].self_attn.rope.sin[1].double().asin() for m in (plain, scaled)]
    slower = angles[0] / angles[1]
    assert slower[0] == 1
    assert slower[-1] == pytest.approx(32, rel=1e-3)
    assert (slower.diff() > -1e-6).all()


# Against a model written out in float64


def written_out(config: ModelConfig, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """ids (seq,) -> logits (seq, vocab_size), written as in the papers, one head and one query at a time."""
    w = {name: value.double() for name, value in weights.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1).double())

    def rms(x: Tensor, gain: Tensor) -> Tensor:
        return x / ((x**2).mean(-1, keepdim=True) + config.norm_eps) ** 0.5 * gain

    def norm(x: Tensor, name: str) -> Tensor:
        if config.norm == "none":
            return x
        if config.norm == "rms":
            return rms(x, w[f"{name}.weight"])
        centred = x - x.mean(-1, keepdim=True)
        deviation = ((centred**2).mean(-1, keepdim=True) + config.norm_eps) ** 0.5
        return centred / deviation * w[f"{name}.weight"] + w.get(f"{name}.bias", torch.zeros(1).double())

    def turned(x: Tensor) -> Tensor:
        if config.position != "rope":
            return x
        half = config.head_dim // 2
        pairs = torch.complex(x[:, :half], x[:, half:])
        angles = torch.arange(len(x)).double().unsqueeze(1) * config.rope_theta ** (-torch.arange(half).double() / half)
        pairs = pairs * torch.exp(1j * angles)
        return torch.cat((pairs.real, pairs.imag), dim=1)

    def attention(x: Tensor, layer: str) -> Tensor:
        q, k, v = (linear(x, f"{layer}.self_attn.{n}_proj").split(config.head_dim, dim=1) for n in "qkv")
        mixed = []
        for head, query in enumerate(q):
            shared = head * config.num_kv_heads // config.num_heads
            key = k[shared]
            if config.qk_norm:
                query = rms(query, w[f"{layer}.self_attn.q_norm.weight"])
                key = rms(key, w[f"{layer}.self_attn.k_norm.weight"])
            query, key = turned(query), turned(key)
            rows = [torch.softmax(key[: i + 1] @ query[i] / math.sqrt(config.head_dim), 0) @ v[shared][: i + 1]
                    for i in range(len(x))]  # fmt: skip
            mixed.append(torch.stack(rows))
        return linear(torch.cat(mixed, dim=1), f"{layer}.self_attn.o_proj")

    def feed_forward(x: Tensor, layer: str) -> Tensor:
        up = linear(x, f"{layer}.mlp.up_proj")
        if config.mlp == "swiglu":
            gate = linear(x, f"{layer}.mlp.gate_proj")
            up = gate / (1 + torch.exp(-gate)) * up
        elif config.mlp == "gelu":
            up = up / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        else:
            up = torch.where(up > 0, up, 0) ** 2
        return linear(up, f"{layer}.mlp.down_proj")

    x = w["model.embed_tokens.weight"][ids]
    if config.position == "learned":
        x = x + w["model.embed_positions.weight"][: len(ids)]
    for number in range(config.num_layers):
        layer = f"model.layers.{number}"
        if config.norm_position == "pre":
            x = x + attention(norm(x, f"{layer}.input_layernorm"), layer)
            x = x + feed_forward(norm(x, f"{layer}.post_attention_layernorm"), layer)
        else:
            x = norm(x + attention(x, layer), f"{layer}.post_attention_layernorm")
            x = norm(x + feed_forward(x, layer), f"{layer}.post_feedforward_layernorm")
    if config.norm_position == "pre":
        x = norm(x, "model.norm")
    return x @ w["lm_head.weight"].T


@EACH_SWITCH
def test_a_switched_model_is_the_one_written_out(switches):
    config = ModelConfig(**{**SHAPE, **switches})
    model = enlarged(config)
    ids = torch.randint(61, (2, 17))
    expected = torch.stack([written_out(config, model.state_dict(), row) for row in ids])
    assert expected.abs().max() > 1
    assert distance(expected, model(ids).double()) < 2e-5


def test_the_model_written_out_is_llama_too():
    config = ModelConfig(**SHAPE)
    model, ids = enlarged(config), torch.randint(61, (1, 17))
    assert distance(written_out(config, model.state_dict(), ids[0]), model(ids)[0].double()) < 2e-5


@EACH_SWITCH
def test_every_switch_changes_what_is_computed_and_learns(switches):
    """Every switch has an effect, and a gradient step reduces every loss."""
    config = ModelConfig(**{**SHAPE, **switches})
    model, ids = Llama(config), torch.randint(61, (4, 20), generator=torch.Generator().manual_seed(1))
    assert not torch.equal(model(ids), Llama(ModelConfig(**SHAPE))(ids)) or switches == {"bias": True}  # begins at 0
    before = model(ids, ids)
    before.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            parameter -= 0.01 * parameter.grad
    assert model(ids, ids) < before


# With the cache, packed, initial, in other precisions


@EACH_SWITCH
def test_the_cache_does_not_change_the_output_of_a_switched_model(switches):
    model, rows = enlarged(ModelConfig(**{**SHAPE, **switches})), [torch.randint(61, (n,)) for n in (11, 4, 1)]
    cache = KVCache(model.config, slots=3, max_seq_len=20)
    ids, positions = torch.full((3, 11), 7), torch.full((3, 11), -1)
    for i, row in enumerate(rows):
        ids[i, : len(row)], positions[i, : len(row)] = row, torch.arange(len(row))
    with torch.no_grad():
        first = model(ids, positions=positions, cache=cache)
        following = torch.randint(61, (3, 6))
        chunks = [model(part, cache=cache) for part in following.split([1, 3, 2], dim=1)]
        for i, row in enumerate(rows):
            expected = model(torch.cat((row, following[i])).unsqueeze(0))[0]
            assert distance(expected, torch.cat((first[i, : len(row)], *(chunk[i] for chunk in chunks)))) < 2e-5


@EACH_SWITCH
def test_a_packed_row_of_a_switched_model_equals_its_documents_run_apart(switches):
    model, lengths = enlarged(ModelConfig(**{**SHAPE, **switches})), [3, 1, 9, 5]
    documents = [torch.randint(61, (1, length)) for length in lengths]
    document_ids = torch.repeat_interleave(torch.tensor([4, 0, 7, 2]), torch.tensor(lengths)).unsqueeze(0)
    packed = model(torch.cat(documents, dim=1), document_ids=document_ids)
    assert distance(torch.cat([model(document) for document in documents], dim=1), packed) < 2e-5


@EACH_SWITCH
def test_initial_gains_are_one_biases_zero_and_positions_as_large_as_tokens(switches):
    model = Llama(ModelConfig(**{**SHAPE, **switches}))
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert (parameter == (0 if name.endswith(".bias") else 1)).all(), name
        elif "embed_" in name:
            assert parameter.std().item() == pytest.approx(40**-0.5, rel=0.1)


@EACH_SWITCH
def test_a_switched_model_in_bf16_is_close_to_fp32(switches):
    config = ModelConfig(**{**SHAPE, **switches})
    exact, hardware = Llama(config), choose_hardware(ExecutionConfig(device="cpu", precision="bf16", threads=1))
    rounded = hardware.apply(Llama(config))
    ids = torch.randint(61, (4, 20))
    with hardware.autocast():
        loss = rounded(ids, ids)
    loss.backward()
    assert abs(loss - exact(ids, ids)) < 0.05
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in rounded.parameters())


def test_a_post_norm_keeps_the_residual_stream_in_fp32():
    hardware = choose_hardware(ExecutionConfig(device="cpu", precision="bf16", threads=1))
    for place, expected in (("pre", torch.bfloat16), ("post", torch.float32)):
        model = hardware.apply(Llama(ModelConfig(**SHAPE, norm_position=place)))
        seen = []
        model.model.layers[0].post_attention_layernorm.register_forward_hook(lambda _m, _i, out, s=seen: s.append(out))
        with hardware.autocast():
            model(torch.zeros(1, 4, dtype=torch.long))
        assert seen[0].dtype == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_matches_torch(dtype, bias):
    ours, theirs = LayerNorm(24, 1e-5, bias).to(dtype), torch.nn.LayerNorm(24, 1e-5, bias=bias, dtype=dtype)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other.uniform_(0.5, 1.5))
    x = (3 + 5 * torch.randn(3, 5, 24)).to(dtype)
    assert ours(x).dtype == dtype
    torch.testing.assert_close(ours(x), theirs(x), **({} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}))


# The names, and the forward pass


def test_parameters_have_the_names_of_hugging_faces_llama_and_documented_ones_besides():
    plain = {name for name, _ in Llama(ModelConfig(**SHAPE)).named_parameters()}
    extra = {name.split("model.layers.0.")[-1] for switches in SWITCHED
             for name, _ in Llama(ModelConfig(**{**SHAPE, "num_layers": 1, **switches})).named_parameters()
             if name not in plain}  # fmt: skip
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in extra - {"lm_head.weight"}:
        assert name.endswith(".bias") or f"`{name}`" in page, name


def test_no_forward_pass_reads_a_switch():
    switches = {"norm", "norm_position", "qk_norm", "position", "mlp", "bias", "tie_embeddings", "dropout"}
    for file in Path(llamita.model.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef) or function.name.startswith(("__init__", "choose_")):
                continue
            asked = {node.attr for branch in ast.walk(function) if isinstance(branch, ast.If | ast.IfExp)
                     for node in ast.walk(branch.test)
                     if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config")}  # fmt: skip
            assert not asked & switches, f"{file.name}: {function.name}"
