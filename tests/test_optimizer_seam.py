"""An optimizer other than AdamW can be planned for, trained with, saved and resumed."""

import shutil

import pytest
import torch
from runs import cache as cache
from runs import last_checkpoint, outcome, rows, tiny_config
from runs import text as text
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llamita import ops
from llamita.config import OptimizerConfig, RunConfig
from llamita.config import replace as replace_settings
from llamita.model import Llama, ModelConfig
from llamita.optim import AdamW, Optimizer, build_optimizer, set_learning_rate
from llamita.optim.dispatch import use_fused_kernel
from llamita.planning import memory
from llamita.planning.memory import count_parameters, optimizer_state_bytes, training_memory
from llamita.runtime.hardware import choose_hardware
from llamita.train import Display, build, load_checkpoint, train


class Momentum(Optimizer, torch.optim.SGD):
    """torch's SGD with momentum, in two groups: the embedding at a tenth of the learning rate, and everything else."""

    def __init__(self, model: nn.Module, embedding_multiplier: float):
        named = dict(model.named_parameters())
        embedding = named.pop("model.embed_tokens.weight")
        groups = [{"params": [embedding], "lr_multiplier": embedding_multiplier}, {"params": list(named.values())}]
        super().__init__(groups, lr=0.0, momentum=0.9)

    def state_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for group in self.param_groups for p in group["params"])


@pytest.fixture
def momentum(monkeypatch):
    """A function (multiplier) that makes runs train with Momentum."""

    def use(multiplier: float) -> None:
        for module in (build, memory):
            monkeypatch.setattr(module, "build_optimizer", lambda _, model: Momentum(model, multiplier))

    return use


def tiny_model() -> Llama:
    return Llama(ModelConfig(vocab_size=11, hidden_size=8, num_layers=1, num_heads=2))


def update(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """One step on random gradients."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def bytes_held(optimizer: torch.optim.Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.untyped_storage().nbytes() for value in values if isinstance(value, torch.Tensor))


# The learning rate


def test_the_learning_rate_of_a_group_is_scaled_by_its_multiplier():
    optimizer = Momentum(tiny_model(), 0.25)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.5]


def test_a_multiplier_equals_another_learning_rate():
    model, twin = tiny_model(), tiny_model()
    scaled = AdamW([{"params": [p], "lr_multiplier": 1 + i} for i, p in enumerate(model.parameters())])
    fixed = AdamW([{"params": [p], "lr": 3e-3 * (1 + i)} for i, p in enumerate(twin.parameters())])
    set_learning_rate(scaled, 3e-3)
    update(scaled, model)
    update(fixed, twin)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_groups_without_a_multiplier_have_the_learning_rate_itself():
    optimizer = torch.optim.AdamW(tiny_model().parameters())
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]


# Building, and the size of the state


def test_a_built_optimizer_has_the_configured_settings_and_no_state():
    options = OptimizerConfig(learning_rate=0.3, beta1=0.5, beta2=0.75, adam_eps=1e-3, weight_decay=0.7)
    model = tiny_model()
    optimizer = build_optimizer(options, model)
    matrices, gains = optimizer.param_groups
    for group in (matrices, gains):
        assert (group["lr"], group["betas"], group["eps"]) == (0.3, (0.5, 0.75), 1e-3)
    assert (matrices["weight_decay"], gains["weight_decay"]) == (0.7, 0.0)
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "momentum"])
def test_the_state_is_as_large_as_state_bytes_predicts(kind, dtype):
    model = tiny_model().to(dtype)
    optimizer = build_optimizer(OptimizerConfig(), model) if kind == "adamw" else Momentum(model, 1.0)
    expected = optimizer.state_bytes()
    update(optimizer, model)
    assert bytes_held(optimizer) == expected == optimizer.state_bytes() > 0


def test_the_plan_knows_the_size_without_allocating_it(momentum):
    config = replace_settings(RunConfig(), device="cpu", precision="fp32", threads=1)
    parameters = sum(count_parameters(config.model).values())
    hardware = choose_hardware(config.run)
    assert optimizer_state_bytes(config) == training_memory(config, hardware).optimizer == 8 * parameters
    before = training_memory(config, hardware)
    momentum(1.0)
    after = training_memory(config, hardware)
    assert optimizer_state_bytes(config) == after.optimizer == 4 * parameters
    assert after.peak <= before.peak - 4 * parameters


# A run


def test_a_run_with_another_optimizer_learns_and_applies_the_multipliers(text, tmp_path, momentum):
    momentum(0.0)
    config = tiny_config(text, output_dir=str(tmp_path / "run"), learning_rate=0.3)
    run = train(config, Display(quiet=True))
    losses = [row["train_loss"] for row in rows(run) if row["train_loss"]]
    assert losses[-1] < losses[0] - 0.1
    early, late = (load_file(run / step / "model.safetensors") for step in ("step_00000008", "step_00000012"))
    same = {name for name in late if torch.equal(early[name], late[name])}
    assert same == {"model.embed_tokens.weight"}
    assert {name.rpartition(".")[2] for name in load_file(run / "step_00000012" / "optimizer.safetensors")} == {
        "momentum_buffer"
    }


def test_a_run_with_another_optimizer_resumes_where_it_stopped(text, tmp_path, momentum):
    momentum(0.1)
    whole, stopped = (tiny_config(text, output_dir=str(tmp_path / name), learning_rate=0.1) for name in "ab")
    expected = outcome(train(whole, Display(quiet=True)))
    run = train(stopped, Display(quiet=True))
    shutil.rmtree(run / "step_00000012")
    last = last_checkpoint(run)
    assert outcome(train(stopped, Display(quiet=True))) == expected
    assert last_checkpoint(run) != last


def test_a_checkpoint_holds_the_state_of_adamw_by_parameter_and_kind(text, tmp_path):
    config = tiny_config(text, output_dir=str(tmp_path / "run"))
    run = train(config, Display(quiet=True))
    model = Llama(replace_settings(config, vocab_size=_vocabulary(run)).model)
    optimizer = build_optimizer(config.optimizer, model)
    load_checkpoint(run / "step_00000012", model, optimizer)
    saved = load_file(run / "step_00000012" / "optimizer.safetensors")
    kinds = ("step", "exp_avg", "exp_avg_sq")
    assert saved.keys() == {f"{name}.{kind}" for name, _ in model.named_parameters() for kind in kinds}
    for name, parameter in model.named_parameters():
        assert optimizer.state[parameter]["step"] == 12
        assert torch.equal(optimizer.state[parameter]["exp_avg"], saved[f"{name}.exp_avg"])


def _vocabulary(run) -> int:
    return RunConfig.from_toml(run / "config.toml").model.vocab_size


# Dispatch between fused kernels and the reference


def test_the_reference_runs_when_selected_and_for_fake_tensors():
    tensors = [torch.ones(3), torch.ones(4, 2)]
    with ops.backend("native"):
        assert use_fused_kernel(tensors)
        with FakeTensorMode():
            assert not use_fused_kernel([*tensors, torch.ones(3)])
    with ops.backend("plain"):
        assert not use_fused_kernel(tensors)
