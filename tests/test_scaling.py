"""Scaling laws: fits recover what is known, agree with independent ones, and a prediction comes before its run."""

import html
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import cache, command, flags, refusal, text, tiny_config, tree, write_text
from scipy.optimize import least_squares

import llamita.experiments.job
import llamita.experiments.scaling.law
import llamita.experiments.scaling.study
import llamita.train
from llamita.config import RunConfig, replace
from llamita.console import shell_line
from llamita.errors import UserError
from llamita.experiments import Plan, PlannedRun, Sweep
from llamita.experiments.report import write_report
from llamita.experiments.scaling import Points, ScalingLaw, Study, Text, fit_law, measure_text
from llamita.experiments.scaling.allocation import Candidates
from llamita.experiments.scaling.isoflop import fit_parabola, fit_power
from llamita.experiments.scaling.ladder import layers_of, size_of
from llamita.experiments.scaling.law import CONSTANTS, bootstrap_laws, constants, interval, objective
from llamita.experiments.scaling.repetition import effective_tokens, fit_repetition
from llamita.model import Llama
from llamita.train import RunDirectory

fixtures = (cache, text)
LAW = ScalingLaw(E=0.354, A=40.0, alpha=0.5, B=900.0, beta=0.65)
SIZES, TOKENS = [9e4, 2.3e5, 4.2e5, 6.6e5, 1.3e6], [1.5e5, 3e5, 6e5, 1.2e6, 2.4e6]


def points(law: ScalingLaw = LAW, noise: float = 0.0, seed: int = 0) -> Points:
    N, D = (values.ravel() for values in np.meshgrid(SIZES, TOKENS))
    return Points(N, D, law.loss(N, D) * np.exp(noise * np.random.default_rng(seed).normal(size=N.shape)))


@pytest.mark.parametrize("law", [LAW, ScalingLaw(1.69, 406.4, 0.34, 410.7, 0.28), ScalingLaw(2.0, 8.0, 0.2, 3e4, 0.9)])
def test_the_fit_recovers_the_constants_that_made_the_losses(law):
    fitted = constants(fit_law(points(law)))
    assert fitted == pytest.approx(constants(law), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_bootstrap_intervals_of_noisy_losses_cover_the_constants(seed):
    noisy = points(noise=0.005, seed=seed)
    laws = bootstrap_laws(noisy, fit_law(noisy), resamples=100)
    intervals = {name: interval([constants(law)[name] for law in laws]) for name in CONSTANTS}
    assert all(low <= constants(LAW)[name] <= high for name, (low, high) in intervals.items())
    low, high = intervals["E"]
    assert high - low < 0.2


def test_the_fit_agrees_with_least_squares_in_scipy():
    """A Huber loss on small residuals is least squares on logarithms."""
    noisy = points(noise=1e-4)

    def residuals(theta: np.ndarray) -> np.ndarray:
        E, A, alpha, B, beta = np.exp(theta)
        return np.log(E + A * noisy.N**-alpha + B * noisy.D**-beta) - np.log(noisy.L)

    start = np.log(list(constants(LAW).values()))
    reference = np.exp(least_squares(residuals, start, xtol=1e-14, ftol=1e-14, gtol=1e-14, x_scale="jac").x)
    assert list(constants(fit_law(noisy)).values()) == pytest.approx(reference, rel=2e-3)


def test_the_gradient_of_the_objective_is_that_of_finite_differences():
    n, d, logs = np.random.default_rng(0).normal(size=(3, 12))
    theta = np.array([0.1, -0.2, 0.3, 0.5, 0.7])
    step = 1e-6 * np.eye(5)
    measured = [(objective(theta + e, n, d, logs)[0] - objective(theta - e, n, d, logs)[0]) / 2e-6 for e in step]
    assert objective(theta, n, d, logs)[1] == pytest.approx(measured, rel=1e-4, abs=1e-9)


def test_one_outlier_hardly_moves_the_fit():
    spoiled = points()
    spoiled.L[7] *= 1.2
    assert fit_law(spoiled).loss(5e5, 5e6) == pytest.approx(LAW.loss(5e5, 5e6), rel=0.01)


@pytest.mark.parametrize("chosen", [slice(0, 7), slice(0, 10), slice(0, 25, 5)])
def test_too_few_points_are_refused_with_the_number_that_is_needed(chosen):
    with pytest.raises(
        UserError, match="needs at least 8 runs that repeat no text, of 3 sizes and 3 numbers of tokens"
    ):
        fit_law(points().take(np.arange(25)[chosen]))


def test_the_minimum_of_a_parabola_is_that_of_a_grid_search():
    N = np.array([1e5, 2e5, 4e5, 8e5, 1.6e6])
    L = 0.5 + 0.02 * (np.log(N) - np.log(3.3e5)) ** 2 + 1e-3 * np.array([1, -1, 0.5, -0.5, 1])
    parabola = fit_parabola(1e12, N, L)
    grid = np.geomspace(1e5, 1.6e6, 20_001)
    losses = np.polyval(np.polyfit(np.log(N), L, 2), np.log(grid))
    assert parabola.parameters == pytest.approx(grid[losses.argmin()], rel=1e-4)
    assert parabola.loss == pytest.approx(losses.min(), rel=1e-9)
    assert parabola.at(grid) == pytest.approx(losses, rel=1e-9)
    assert parabola.low < 3.3e5 < parabola.high


@pytest.mark.parametrize("losses", [[0.5, 0.4, 0.3, 0.25, 0.22], [0.3, 0.4, 0.45, 0.4, 0.3]])
def test_a_budget_that_does_not_show_its_best_size_has_no_parabola(losses):
    assert fit_parabola(1e12, np.geomspace(1e5, 1.6e6, 5), np.array(losses)) is None


def test_best_sizes_of_a_law_grow_with_the_power_that_follows_from_it():
    """N* grows as C^(β / (α + β)) where C = 6·N·D (Hoffmann et al., 2022, equation 4)."""
    budgets = [1e13, 4e13, 1.6e14, 6.4e14]
    found = []
    for budget in budgets:
        grid = np.geomspace(1e4, 1e8, 20_000)
        center = grid[LAW.loss(grid, budget / 6 / grid).argmin()]
        N = center * np.array([0.7, 0.85, 1.0, 1.2, 1.4])
        found.append(fit_parabola(budget, N, LAW.loss(N, budget / 6 / N)))
    power = fit_power(found)
    assert power.exponent == pytest.approx(0.65 / 1.15, rel=0.03)
    assert power.at(1e13) == pytest.approx(found[0].parameters, rel=0.03)


def test_repetitions_are_worth_less_and_less_and_the_fit_recovers_how_much():
    assert effective_tokens(5e5, 1e6, 15.4) == 5e5
    assert effective_tokens(2e6, 1e6, 15.4) == pytest.approx(1.97e6, rel=0.01)
    assert effective_tokens(1e12, 1e6, 15.4) == pytest.approx(16.4e6)
    D = 1e6 * np.array([2.0, 4, 8, 16, 32])
    N = np.full(5, 4e5)
    losses = LAW.loss(N, effective_tokens(D, 1e6, 5.0))
    assert fit_repetition(Points(N, D, losses), LAW, 1e6) == pytest.approx(5.0, rel=1e-2)


def test_the_recommended_model_is_the_best_of_all_widths(text):
    base, facts = tiny_config(text), Text(200, 10_000, 500)
    best = Candidates(base, facts, 1e11).best(LAW, [LAW])
    losses = {}
    for width in range(32, 385, 32):
        size = size_of(base, facts, width)
        losses[width] = LAW.loss(size.parameters, 1e11 / size.flops_per_token)
    assert best.loss == pytest.approx(min(losses.values()), rel=2e-3)
    assert best.tokens == 1e11 / best.size.flops_per_token
    few = Candidates(base, facts, 1e11).best(LAW, [LAW], most_tokens=best.tokens / 2)
    assert few.tokens <= best.tokens / 2


def test_shapes_and_counts_are_those_of_real_models(text):
    assert [layers_of(width) for width in (32, 128, 192, 256, 768)] == [2, 2, 3, 4, 12]
    size = size_of(tiny_config(text), Text(200, 10_000, 500), 64)
    model = Llama(size.model)
    embedding = 200 * 64
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.non_embedding == size.parameters - embedding
    matrices = size.parameters - sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert size.flops_per_token == pytest.approx(6 * matrices + 6 * 2 * 64 * 16, rel=0.01)


# --- A ladder on disk -------------------------------------------------------------------------------------------------

SETTINGS = {"tokenizer": "char", "max_seq_len": 16, "threads": 1, "precision": "fp32", "device": "cpu"}
FLOOR = 0.4


def ladder(folder: Path, **options: object) -> list[str]:
    """The command line of a ladder of nine runs in folder/ladder."""
    data = folder / "many.txt"
    if not data.exists():
        write_text(data, documents=6000)
    chosen = {"widths": "16,20,24", "budgets": "5e9,7e9,1e10", "batch_size": 500, **options}
    return ["scaling", *flags(data=data, output_dir=folder / "ladder", **SETTINGS, **chosen)]


@pytest.fixture
def known_law(monkeypatch: pytest.MonkeyPatch) -> ScalingLaw:
    """In place of training, runs whose losses follow a law exactly."""
    law = ScalingLaw(FLOOR, 30.0, 0.5, 200.0, 0.6)
    measured: list[Text] = []  # once: all runs have the same text

    def train(config: RunConfig, display: object) -> None:
        text = measured[0] if measured else measure_text(config)
        measured.append(text)
        directory = RunDirectory(config.run.output_dir)
        directory.path.mkdir(parents=True)
        directory.write_config(replace(config, vocab_size=text.vocab_size), {"loss_floor": FLOOR})
        tokens = round(config.training.max_steps * config.training.batch_size * text.tokens_per_window)
        N = size_of(config, text, config.model.hidden_size).parameters
        loss = law.loss(N, effective_tokens(tokens, text.tokens, 5.0))
        directory.metrics.append({"step": config.training.max_steps, "tokens": tokens, "val_loss": float(loss)})

    monkeypatch.setattr(llamita.experiments.job, "train", train)
    monkeypatch.setattr(llamita.experiments.scaling.study, "RESAMPLES", 3)
    monkeypatch.setattr(llamita.experiments.scaling.law, "DESCENTS", 4)  # few suffice where there is no noise
    return law


def report(folder: Path) -> dict:
    return json.loads((folder / "scaling.json").read_text(encoding="utf-8"))


def test_a_run_with_four_times_the_compute_is_predicted_before_it_starts(tmp_path, known_law, capsys):
    folder = tmp_path / "ladder"
    assert command(*ladder(tmp_path)) == 0
    found = report(folder)
    (held_out,) = (folder / "held-out").glob("*-seed0")
    assert (folder / "prediction.json").stat().st_mtime_ns < (held_out / "config.toml").stat().st_mtime_ns
    prediction = json.loads((folder / "prediction.json").read_text(encoding="utf-8"))
    assert prediction["flops"] >= 3.9 * max(row["flops"] for row in found["runs"])
    assert prediction.items() <= found["held_out"].items()
    assert found["law"] == pytest.approx(vars(known_law), rel=0.02)
    assert found["held_out"]["trained_loss"] == pytest.approx(prediction["loss"], rel=1e-4)
    assert all(2 * row["parameters"] <= row["tokens"] and row["epochs"] <= 1.005 for row in found["runs"])
    assert {path.name for path in folder.glob("scaling.*")} == {"scaling.json", "scaling.svg", "scaling.png"}
    assert found["law"]["E"] == FLOOR
    assert found["free_law"] == pytest.approx(vars(known_law), rel=0.02)
    assert f"with E = {FLOOR:.4f}, the loss floor" in capsys.readouterr().out


def test_a_finished_ladder_repeats_nothing_and_answers_predict(tmp_path, known_law, capsys):
    assert command(*ladder(tmp_path)) == 0
    before = tree(tmp_path / "ladder")
    assert command(*ladder(tmp_path)) == 0
    assert tree(tmp_path / "ladder") == before
    capsys.readouterr()
    assert command("scaling", "--output_dir", tmp_path / "ladder", "--predict", "1e10") == 0
    printed = capsys.readouterr().out
    best = Study.load(tmp_path / "ladder").recommend(1e10)
    assert f"{best.loss:.4f} nats per token" in printed
    assert f"{best.width} wide" in printed
    assert tree(tmp_path / "ladder") == before


def test_a_report_shows_the_law_its_runs_and_the_prediction(tmp_path, known_law, monkeypatch):
    folder, words = tmp_path / "ladder", ladder(tmp_path)
    assert command(*words) == 0
    found = report(folder)
    for module in ("scipy", "scipy.optimize"):
        monkeypatch.setitem(sys.modules, module, None)  # as where the extra is not installed
    page = html.unescape(write_report([folder]).read_text(encoding="utf-8"))
    for value in found["law"].values():
        assert f"<td>{value:.4g}</td>" in page
    assert f"with E = {FLOOR:.4f}, the loss floor" in page
    assert f"<td>{found['free_law']['E']:.4g}</td>" in page
    for width in (16, 20, 24):
        runs = sorted((row["flops"], row["loss"]) for row in found["runs"] if row["width"] == width)
        shown = " ".join(f"{loss:.6g}" for _, loss in runs)
        assert re.search(rf'data-name="runs, {width} wide" data-x="[^"]*" data-y="{shown}"', page)
    held_out = found["held_out"]
    assert f"predicted {held_out['loss']:.4f}" in page
    assert f"measured {held_out['trained_loss']:.4f}" in page
    assert shell_line("llamita", *words) in page


def test_where_the_floor_is_known_the_fit_uses_it_and_else_it_is_free(monkeypatch):
    noisy, floor = points(noise=0.02), LAW.E
    study = Study(Sweep(Path("nowhere"), None, {}))
    study.__dict__.update(points=noisy, results=[SimpleNamespace(loss_floor=floor)])
    monkeypatch.setattr(llamita.experiments.scaling.study, "RESAMPLES", 3)
    assert study.law == fit_law(noisy, floor)
    assert {law.E for law in [study.law, *study.laws]} == {floor}
    study = Study(Sweep(Path("nowhere"), None, {}))
    study.__dict__.update(points=noisy, results=[SimpleNamespace(loss_floor=None)])
    assert study.law == study.free_law == fit_law(noisy)


def test_with_a_known_floor_the_fit_is_that_of_scipy_on_the_distances():
    noisy = points(noise=0.02, seed=3)
    n, d, distance = np.log(noisy.N / SIZES[2]), np.log(noisy.D / TOKENS[2]), np.log(noisy.L - LAW.E)

    def residuals(theta):
        return np.logaddexp(theta[0] - theta[1] * n, theta[2] - theta[3] * d) - distance

    expected = least_squares(residuals, [-2, 0.5, -2, 0.5], loss="huber", f_scale=0.1, xtol=1e-14, ftol=1e-14).x
    law = fit_law(noisy, LAW.E)
    assert law.E == LAW.E
    A, B = np.exp(expected[0] + expected[1] * np.log(SIZES[2])), np.exp(expected[2] + expected[3] * np.log(TOKENS[2]))
    assert [law.alpha, law.beta, law.A, law.B] == pytest.approx([expected[1], expected[3], A, B], rel=5e-3)


def test_a_report_of_a_ladder_without_a_fit_says_so(tmp_path, known_law):
    folder = tmp_path / "ladder"
    assert command(*ladder(tmp_path, held_out=0)) == 0
    (folder / "scaling.json").unlink()
    assert "Not fitted yet" in write_report([folder]).read_text(encoding="utf-8")


def test_runs_that_repeat_their_text_tell_what_repetition_is_worth(tmp_path, known_law):
    assert command(*ladder(tmp_path, repeat="2,4,8", held_out=0)) == 0
    found = report(tmp_path / "ladder")
    assert found["repetition"] == pytest.approx(5.0, rel=0.1)
    assert [row["width"] for row in found["runs"] if row["epochs"] > 1.5] == [20, 20, 20]
    assert found["held_out"] is None


def test_runs_that_do_not_determine_the_floor_are_said_to_be_too_short(monkeypatch):
    """Losses that are still a pure power of the tokens tell nothing of E."""
    monkeypatch.setattr(llamita.experiments.scaling.study, "RESAMPLES", 20)
    early = points(ScalingLaw(0.05, 40.0, 0.5, 5e5, 1.0), noise=0.02)
    study = Study(Sweep(Path("nowhere"), None, {}))
    study.__dict__["points"] = early
    assert "do not determine E" in study.doubt
    study = Study(Sweep(Path("nowhere"), None, {}))
    study.__dict__["points"] = points(noise=1e-4)
    assert study.doubt is None


def test_another_ladder_in_the_same_directory_is_refused(tmp_path, known_law, capsys):
    assert command(*ladder(tmp_path, held_out=0)) == 0
    assert "holds a sweep with other settings" in refusal(capsys, *ladder(tmp_path, budgets="5e9,7e9,1.1e10"))


@pytest.mark.slow
def test_a_real_ladder_resumes_after_an_interrupt_with_the_same_numbers(tmp_path, monkeypatch):
    assert command(*ladder(tmp_path, held_out=1.5)) == 0
    once = report(tmp_path / "ladder")
    shutil.move(tmp_path / "ladder", tmp_path / "once")
    started = []

    def interrupted(*arguments):
        started.append(arguments)
        if len(started) == 5:
            raise KeyboardInterrupt("here")
        return llamita.train.train(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(llamita.experiments.job, "train", interrupted)
        assert command(*ladder(tmp_path, held_out=1.5)) == 130
    assert command(*ladder(tmp_path, held_out=1.5)) == 0
    assert report(tmp_path / "ladder") == once
    losses = [row["loss"] for row in once["runs"]]
    assert all(0 < loss < 3 for loss in losses)
    assert np.isfinite(once["held_out"]["trained_loss"])


def test_a_prediction_needs_a_scaling_sweep(tmp_path, text, capsys, monkeypatch):
    assert "holds no scaling sweep" in refusal(capsys, "scaling", "--predict", "1e18")
    monkeypatch.setattr(llamita.experiments.job, "train", lambda *_: None)
    Sweep.open(tmp_path / "other", Plan("ablation", tiny_config(text), (PlannedRun.of("base", 0, {}),))).run()
    error = refusal(capsys, "scaling", "--predict", "1e18", "--output_dir", tmp_path / "other")
    assert "a sweep of another kind, ablation" in error


def test_a_ladder_with_too_few_runs_for_a_fit_is_refused_before_it_starts(tmp_path, capsys):
    error = refusal(capsys, *ladder(tmp_path, widths="16,24"))
    assert "needs at least 8 runs that repeat no text, of 3 sizes and 3 numbers of tokens: there are 6, of 2" in error
    assert not (tmp_path / "ladder").exists()


def test_an_interrupted_ladder_says_how_many_runs_are_needed(tmp_path, known_law, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(llamita.experiments.job, "train", lambda *_: 1 / 0)
        assert "needs at least 8 runs" in refusal(capsys, *ladder(tmp_path))
    assert "there are 0, of 0" in refusal(capsys, "scaling", "--predict", "1e9", "--output_dir", tmp_path / "ladder")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--widths", "12,x"], "--widths is 12,x"),
        (["--budgets", "-1"], "--budgets is -1"),
        (["--hidden_size", "64"], "--hidden_size: the ladder sets it"),
        (["--max_steps", "10"], "--max_steps: the ladder sets it"),
        (["--size", "1M"], "--size: the ladder sets it"),
        (["--minutes", "1"], "--minutes: the ladder sets it"),
        (["--held_out", "-1"], "must be positive"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(text, given, message, capsys):
    assert message in refusal(capsys, "scaling", "--data", text, *given)
