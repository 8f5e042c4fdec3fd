"""The plots of a run: what they show, and that any log can be plotted. How they look, the reader has to judge."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from runs import cache, command, refusal, text, train_words

from llamita.errors import UserError
from llamita.evaluate import PositionLosses
from llamita.evaluate.plots import DRAWINGS, PlotData, smoothed, thinned, write_plots
from llamita.train import RunDirectory

fixtures = (cache, text)
PNG = b"\x89PNG\r\n\x1a\n"


def log(steps: int, every: int = 1) -> list[dict]:
    """Rows as a run of this many steps writes them."""
    rows = []
    for step in range(0, steps + 1, every):
        trained = {"train_loss": None, "lr": None, "grad_norm": None, "tokens_per_second": None}
        if step:
            trained = {"train_loss": 8 / step, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 2e4}
        scored = {"val_loss": 1 + 7 / (step + 1), "perplexity": math.exp(1 + 7 / (step + 1))}
        rows.append({"step": step, "tokens": 100 * step, **trained, **(scored if step % 5 == 0 else {})})
    return rows


def positions(context: int = 32) -> PositionLosses:
    targets = np.full(context, 10, dtype=np.int64)
    return PositionLosses(targets * np.linspace(5, 1, context), targets, 100)


def axes_of(name: str, pictured: PlotData):
    figure = Figure()
    axes = figure.add_subplot()
    assert DRAWINGS[name](axes, pictured)
    figure.draw_without_rendering()
    return axes


def test_every_drawing_and_an_overview_are_written(tmp_path):
    paths = write_plots(tmp_path / "plots", PlotData(log(20), 0.5, positions()), "a run")
    assert {path.stem for path in paths} == {*DRAWINGS, "overview"}
    assert all(path.read_bytes().startswith(PNG) for path in paths)


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [
        ([], set()),
        (log(0), {"loss", "perplexity", "overview"}),
        (log(1)[1:], {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "overview"}),
        (log(100_000), {*DRAWINGS, "overview"} - {"loss_by_position"}),
        ([{**row, "train_loss": math.nan, "val_loss": math.inf} for row in log(5)], {*DRAWINGS, "overview"}),
    ],
    ids=["empty", "before the first step", "one step", "100,000 rows", "diverged"],
)
def test_any_log_is_plotted_as_far_as_it_has_data(tmp_path, rows, drawn):
    paths = write_plots(tmp_path, PlotData(rows))
    assert {path.stem for path in paths} == drawn - {"loss_by_position"} - ({"loss"} if len(rows) == 6 else set())


def test_the_loss_is_drawn_with_training_validation_and_floor():
    axes = axes_of("loss", PlotData(log(200), 0.25))
    lines = {line.get_label().split()[0]: line for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert set(lines) == {"training", "validation", "floor"}
    assert lines["validation"].get_xydata().tolist() == [[s, 1 + 7 / (s + 1)] for s in range(0, 201, 5)]
    assert set(lines["floor"].get_ydata()) == {0.25}
    assert axes.get_yscale() == "log"


LOGS = {"a few steps": log(3), "many": log(400), "never better": [{**row, "val_loss": 9.0} for row in log(30)]}


@pytest.mark.parametrize("rows", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("floor", [None, 0.25])
def test_the_legend_stands_above_the_curves_and_beside_the_title(rows, floor):
    axes = axes_of("loss", PlotData(rows, floor))
    legend = axes.get_legend()
    assert legend is not None
    box, title = legend.get_window_extent(), axes._left_title.get_window_extent()  # type: ignore[attr-defined]
    assert box.y0 > max(axes.bbox.y1, *(label.get_window_extent().y1 for label in axes.child_axes[0].get_xticklabels()))
    assert box.x0 > title.x1


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_axis_says_what_it_shows(name):
    axes = axes_of(name, PlotData(log(20), 0.5, positions()))
    assert axes.get_xlabel() in ("steps", "tokens seen")
    assert axes.get_ylabel()


def test_values_that_hardly_differ_are_written_in_full(tmp_path, monkeypatch):
    """matplotlib would write `+7` in the corner above the axis, where `tokens` stands."""
    corners = []
    save = Figure.savefig

    def look(figure, *arguments):
        save(figure, *arguments)
        corners.extend(axes.yaxis.get_offset_text().get_text() for axes in figure.axes)

    monkeypatch.setattr(Figure, "savefig", look)
    rows = [{**row, "train_loss": 7 + 1e-7 * row["step"], "grad_norm": 1e8 + row["step"]} for row in log(9)]
    write_plots(tmp_path, PlotData(rows))
    assert set(corners) == {""}


def test_what_hardly_changes_is_drawn_on_a_linear_axis():
    rows = [{**row, "grad_norm": 1 + row["step"] / 20} for row in log(20)[1:]]
    assert axes_of("gradient_norm", PlotData(rows)).get_yscale() == "linear"


def test_the_axis_above_counts_the_tokens_of_the_steps_below():
    axes = axes_of("loss", PlotData(log(20)))
    (above,) = axes.child_axes
    assert above.get_xlim() == pytest.approx([100 * limit for limit in axes.get_xlim()])


def test_losses_by_position_are_drawn_over_the_tokens_seen():
    losses = positions()
    axes = axes_of("loss_by_position", PlotData([], None, losses))
    alone, grouped = axes.get_lines()
    assert alone.get_xdata().tolist() == list(range(1, 33))
    assert alone.get_ydata() == pytest.approx(losses.means())
    assert grouped.get_ydata() == pytest.approx([loss for *_, loss in losses.by_doubling()])


@pytest.mark.parametrize("count", [0, 1, 2, 99, 100, 101, 12_345])
def test_thinned_points_are_means_of_neighbours_and_keep_the_extremes(count):
    x, y = np.arange(count, dtype=float), np.random.default_rng(0).normal(size=count)
    series = thinned(x, y, 100)
    assert len(series.x) == min(count, 100)
    if count <= 100:
        assert series.y.tolist() == y.tolist()
    if count:
        assert (series.low.min(), series.high.max()) == (y.min(), y.max())
        edges = [round(edge) for edge in np.arange(min(count, 100)) * count // min(count, 100)]
        parts = np.split(y, edges[1:])
        assert series.y == pytest.approx([part.mean() for part in parts])


def test_smoothing_passes_over_a_spike_and_keeps_a_slope():
    y = np.arange(400.0)
    spiked = y.copy()
    spiked[200] = 1e9
    assert len(smoothed(y)) == 400
    assert np.abs(smoothed(spiked) - y).max() <= 5
    assert smoothed(np.array([3.0])).tolist() == [3.0]
    assert smoothed(np.array([])).tolist() == []


def test_the_command_writes_plots_into_the_run_and_prints_their_paths(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "checkpoints")) == 0
    capsys.readouterr()
    assert command("eval", "--checkpoint", "checkpoints", "--plot") == 0
    printed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("plot")]
    assert {Path(path) for path in printed} == set((Path("checkpoints") / "plots").iterdir())
    assert {Path(path).stem for path in printed} == {*DRAWINGS, "overview"}


def test_a_place_that_cannot_be_written_is_named(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    (tmp_path / "run" / "plots").write_text("taken")
    assert "run/plots" in refusal(capsys, "eval", "--checkpoint", "run", "--plot")


def test_a_damaged_line_of_the_log_is_named(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text('{"step": 0}\n{"step": \n{"step": 2}\n')
    assert "run/metrics.jsonl: line 2 is not JSON" in refusal(capsys, "eval", "--checkpoint", "run", "--plot")


def test_matplotlib_is_only_loaded_to_plot(text, tmp_path):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    call = (
        "import json, sys; from llamita.cli.main import main\n"
        "try: main(['eval', '--checkpoint', 'run'])\n"
        "finally: print(json.dumps('matplotlib' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) is False


@pytest.mark.parametrize(
    "line",
    ["[1]", "7", "null", "{}", '{"step": "x"}', '{"step": 2, "train_loss": "low"}', '{"step": 2, "timestamp": "noon"}'],
)
def test_a_line_of_the_log_that_is_json_but_no_metrics_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "train_loss": null, "lr": 0.1}}\n{line}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not a log entry"):
        RunDirectory(tmp_path).metrics.rows()


@pytest.mark.parametrize("timestamp", ["1764178528.5", '"2026-11-26T17:35:28.500+00:00"', "null"])
def test_logs_with_seconds_as_timestamps_are_read_like_those_of_today(tmp_path, timestamp):
    line = f'{{"step": 1, "train_loss": 2.5, "tokens": 64, "timestamp": {timestamp}}}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    rows = RunDirectory(tmp_path).metrics.rows()
    assert rows == [json.loads(line)]
    assert [path.stem for path in write_plots(tmp_path / "plots", PlotData(rows))] == ["loss"]
