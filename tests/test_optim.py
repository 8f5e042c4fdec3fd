"""AdamW, clipping and the schedule, against torch's own."""

import copy
import json
import math

import pytest
import torch

from llamita.config import OptimizerConfig
from llamita.model import Llama, ModelConfig
from llamita.optim import (
    AdamW,
    clip_grad_norm_,
    constant_schedule,
    cosine_schedule,
    decay_groups,
    linear_schedule,
    make_schedule,
)

SHAPES = [(7, 5), (5,), (3, 11), (1,)]


def drawn_parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def groups(parameters: list[torch.nn.Parameter]) -> list[dict]:
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs() / a.abs().clamp(min=1)).max().item()


def run(optimizer: torch.optim.Optimizer, gradients: list[list[torch.Tensor | None]], rates: list[float]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step, rate in zip(gradients, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()


def drawn_gradients(parameters: list[torch.nn.Parameter], steps: int, kind: str) -> list[list[torch.Tensor | None]]:
    torch.manual_seed(5)

    def gradient(p: torch.Tensor) -> torch.Tensor | None:
        plain = torch.randn_like(p)
        if kind == "wild":  # of every size, zeros among them, sometimes none at all
            wild = plain * 10 ** torch.empty_like(p).uniform_(-12, 12) * (torch.rand_like(p) > 0.2)
            return None if torch.rand(()) < 0.1 else wild
        return {"plain": plain, "zero": torch.zeros_like(p), "huge": 1e15 * plain, "tiny": 1e-9 * plain}[kind]

    return [[gradient(p) for p in parameters] for _ in range(steps)]


# AdamW


@pytest.mark.parametrize("kind", ["plain", "wild", "zero", "huge", "tiny"])
@pytest.mark.parametrize("settings", [{}, {"betas": (0.8, 0.999), "eps": 1e-5}, {"betas": (0.0, 0.0)}], ids=str)
def test_a_thousand_steps_of_adamw_are_those_of_torch(kind, settings):
    settings = {"betas": (0.9, 0.95), "eps": 1e-8, **settings}
    mine, theirs = drawn_parameters(), drawn_parameters()
    rates = [cosine_schedule(step, 3e-3, 1e-4, 100, 1000) for step in range(1000)]
    ours, torchs = AdamW(groups(mine), **settings), torch.optim.AdamW(groups(theirs), **settings)
    gradients = drawn_gradients([p for group in ours.param_groups for p in group["params"]], 1000, kind)
    run(ours, gradients, rates)
    run(torchs, gradients, rates)
    for start, a, b in zip(drawn_parameters(), theirs, mine, strict=True):
        assert distance(a, b) < 1e-6
        assert kind == "zero" or not torch.equal(start, a)


def test_the_defaults_are_those_of_the_documentation():
    parameters = drawn_parameters()
    defaults = AdamW(parameters).defaults
    assert defaults == {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def test_matrices_decay_and_gains_do_not():
    model = Llama(ModelConfig(vocab_size=11, hidden_size=8, num_layers=1, num_heads=2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = AdamW(decay_groups(model, 0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if "norm" in name else 0.95
        torch.testing.assert_close(parameter.detach(), factor * before[name])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


@pytest.fixture
def one_thread():
    """Many small operations are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_fifty_steps_of_a_real_model_go_as_with_torch():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=31, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_seq_len=24)
    ids = torch.randint(31, (50, 4, 25))
    losses, models = {}, {}
    for kind in (AdamW, torch.optim.AdamW):
        model = models[kind] = Llama(config)
        optimizer = kind(decay_groups(model, 0.1), lr=3e-3, betas=(0.9, 0.95))
        losses[kind] = []
        for batch in ids % 5:  # few distinct tokens, so that there is something to learn
            optimizer.zero_grad()
            loss = model(batch[:, :-1], batch[:, 1:])
            loss.backward()
            optimizer.step()
            losses[kind].append(loss.item())
    mine, theirs = losses.values()
    assert mine == pytest.approx(theirs, abs=1e-4)
    assert mine[-1] < mine[0] - 1
    for a, b in zip(*(model.parameters() for model in models.values()), strict=True):
        assert distance(a.detach(), b.detach()) < 1e-3


def test_a_saved_state_resumes_bitwise_even_after_json_turned_tuples_into_lists():
    straight, stopped = drawn_parameters(), drawn_parameters()
    gradients, rates = drawn_gradients(straight, 20, "plain"), [1e-2] * 20
    run(AdamW(straight), gradients, rates)
    first = AdamW(stopped)
    run(first, gradients[:9], rates[:9])
    state = copy.deepcopy(first.state_dict())
    state["param_groups"] = json.loads(json.dumps(state["param_groups"]))
    resumed = AdamW(stopped, lr=7.0, betas=(0.1, 0.2))  # overwritten by what was saved
    resumed.load_state_dict(state)
    run(resumed, gradients[9:], rates[9:])
    assert all(torch.equal(a, b) for a, b in zip(straight, stopped, strict=True))


def test_a_parameter_without_gradient_is_left_alone():
    parameters = drawn_parameters()
    before = parameters[0].detach().clone()
    optimizer = AdamW(parameters)
    optimizer.step()
    assert torch.equal(parameters[0], before)
    assert not optimizer.state


def test_a_closure_is_called_with_gradients_enabled_and_its_loss_returned():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([parameter], lr=0.1)

    def closure() -> torch.Tensor:
        loss = parameter.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    assert (parameter < 1).all()


@pytest.mark.parametrize("wrong", [{"lr": -1e-3}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"eps": -1e-9},
                                   {"weight_decay": -0.1}, {"lr": math.nan}], ids=str)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="out of range"):
        AdamW(drawn_parameters(), **wrong)


# Clipping


def with_gradients(scale: float) -> list[torch.nn.Parameter]:
    parameters = drawn_parameters(1)
    for parameter in parameters[:-1]:  # the last has none
        parameter.grad = scale * torch.cos(parameter.detach())
    return parameters


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 50.0, math.inf])
def test_clipping_matches_torch(scale, max_norm):
    mine, theirs = with_gradients(scale), with_gradients(scale)
    norm, expected = clip_grad_norm_(mine, max_norm), torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(mine[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert mine[-1].grad is None


@pytest.mark.parametrize("max_norm", [10.0, math.inf])
def test_gradients_within_the_bound_are_bitwise_unchanged(max_norm):
    parameters, before = with_gradients(0.3), with_gradients(0.3)
    assert clip_grad_norm_(parameters, max_norm) < 10
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(parameters[:-1], before[:-1], strict=True))


def test_after_clipping_the_norm_is_the_bound():
    parameters = with_gradients(100.0)
    clip_grad_norm_(parameters, 1.0)
    assert clip_grad_norm_(parameters, math.inf).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(bad):
    parameters = with_gradients(1.0)
    parameters[0].grad[0, 0] = bad
    assert not clip_grad_norm_(parameters, 1.0).isfinite()


def test_one_tensor_an_iterator_and_nothing_at_all_can_be_clipped():
    parameters = with_gradients(100.0)
    expected = torch.cat([p.grad.flatten() for p in parameters[:-1]]).norm()
    torch.testing.assert_close(clip_grad_norm_(iter(parameters), math.inf), expected)
    torch.testing.assert_close(clip_grad_norm_(parameters[0], math.inf), parameters[0].grad.norm())
    assert clip_grad_norm_([], 1.0) == clip_grad_norm_(parameters[-1:], 1.0) == 0


# The schedule


def torchs_rates(peak: float, end: float, warmup: int, steps: int) -> list[float]:
    """By torch's own schedulers: a line from peak / warmup to peak, then half a cosine."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, end)
    scheduler = cosine
    if warmup > 1:
        line = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [line, cosine], [warmup])
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULES = [(3e-3, 3e-4, 10, 100), (1.0, 0.0, 0, 37), (1e-4, 1e-4, 5, 20), (0.5, 0.1, 99, 100), (2e-2, 0.0, 2, 3)]


@pytest.mark.filterwarnings("ignore:.*epoch parameter.*:UserWarning")
@pytest.mark.parametrize(("peak", "end", "warmup", "steps"), SCHEDULES)
def test_the_schedule_is_that_of_torchs_schedulers(peak, end, warmup, steps):
    expected = torchs_rates(peak, end, warmup, steps)
    rates = [cosine_schedule(step, peak, end, warmup, steps) for step in range(steps + 1)]
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-12 * peak)


def test_the_schedule_has_the_right_endpoints():
    def rate(step: int) -> float:
        return cosine_schedule(step, 1.0, 0.1, 10, 110)

    assert [rate(0), rate(4), rate(9), rate(10), rate(60)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55])
    assert rate(110) == rate(111) == rate(10**9) == 0.1
    rates = [rate(step) for step in range(111)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warmup_it_starts_at_the_peak_and_without_steps_it_is_over():
    assert cosine_schedule(0, 0.3, 0.1, 0, 10) == 0.3
    assert cosine_schedule(0, 0.3, 0.1, 0, 0) == 0.1


def test_a_warmup_longer_than_the_run_is_a_line_that_never_divides_by_zero():
    rates = [cosine_schedule(step, 1.0, 0.0, 8, 5) for step in range(5)]
    assert rates == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8])
    assert [cosine_schedule(5, 1.0, 0.0, 5, 5), cosine_schedule(9, 1.0, 0.2, 5, 5)] == [0.0, 0.2]


# The other schedules


@pytest.mark.parametrize(("peak", "end", "warmup", "steps"), SCHEDULES)
def test_the_linear_schedule_is_a_line_up_and_a_line_down(peak, end, warmup, steps):
    rates = [linear_schedule(step, peak, end, warmup, steps) for step in range(steps + 3)]
    up = [peak * (step + 1) / warmup for step in range(warmup)]
    down = [peak + (end - peak) * (step - warmup) / (steps - warmup) for step in range(warmup, steps)]
    assert rates == pytest.approx([*up, *down, end, end, end])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_constant_schedule_stays_at_the_peak_and_comes_down_at_the_end(share):
    rates = [constant_schedule(step, 2e-3, 1e-4, 20, 200, share) for step in range(203)]
    decay = int(200 * share)
    assert rates[:20] == pytest.approx([2e-3 * (step + 1) / 20 for step in range(20)])
    assert set(rates[20 : 200 - decay + 1]) == {2e-3}
    assert rates[200 - decay : 201] == pytest.approx(
        torch.linspace(2e-3, 1e-4, decay + 1, dtype=torch.float64).tolist()
    )
    assert rates[200:] == [1e-4] * 3


def test_a_constant_schedule_without_decay_stays_and_one_with_all_of_it_is_the_linear_one():
    assert {constant_schedule(step, 0.5, 0.1, 0, 10, 0.0) for step in range(15)} == {0.5}
    for step in range(30):
        assert constant_schedule(step, 0.5, 0.1, 7, 20, 1.0) == linear_schedule(step, 0.5, 0.1, 7, 20)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_a_warmup_longer_than_the_run_is_a_line_in_every_schedule(schedule):
    rate = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=8, schedule=schedule), 5)
    assert [rate(step) for step in range(5)] == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8])
    assert rate(9) == 0.0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_configured_schedule_is_used(schedule):
    options = OptimizerConfig(
        learning_rate=1.0, min_learning_rate=0.2, warmup_steps=4, schedule=schedule, decay_share=0.5
    )
    rate = make_schedule(options, 40)
    shape = {"cosine": cosine_schedule, "linear": linear_schedule}.get(schedule)
    expected = shape or (lambda *ends: constant_schedule(*ends, decay_share=0.5))
    assert [rate(step) for step in range(42)] == [expected(step, 1.0, 0.2, 4, 40) for step in range(42)]
