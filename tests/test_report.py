"""Reports: self-contained, with the numbers of the log, for runs in every state; and nothing in them is unescaped."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from runs import command, refusal, tiny_config, write_text

import llamita.experiments.job
from llamita.config import replace
from llamita.errors import DivergenceError
from llamita.experiments import Sweep
from llamita.experiments.ablation import plan_ablation, variant_groups
from llamita.experiments.report import write_report
from llamita.experiments.report.chart import Chart, Line
from llamita.experiments.report.forest import Difference, forest_plot
from llamita.experiments.report.markup import Markup, element
from llamita.experiments.report.scale import Scale, short
from llamita.file_lock import file_lock
from llamita.train import RunDirectory, train

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a run, and an ablation of two groups and two seeds."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMITA_CACHE", str(folder / "cache"))
        config = tiny_config(write_text(folder / "text.txt"), sample_every=6)
        train(replace(config, output_dir=str(folder / "run")))
        Sweep.open(folder / "sweep", plan_ablation(config, variant_groups(config, ["no-norm"]), 2, {})).run()
    return folder


@pytest.fixture
def copy(made, tmp_path, monkeypatch) -> Path:
    """The same, to change."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "made"))


def written(*paths: Path) -> str:
    return write_report(paths).read_text(encoding="utf-8")


class Page(HTMLParser):
    """The elements of a page, and the text outside of style and script."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def drawings(page: str) -> list[ElementTree.Element]:
    """Every SVG of a page, parsed as XML."""
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg .*?</svg>", page, re.DOTALL)]


def line(page: str, title: str, x_title: str, name: str) -> tuple[list[float], list[float]]:
    """The values of a line of the chart with this title and x axis."""
    for svg in drawings(page):
        if svg.get("aria-label", "").startswith(f"{title}: loss, nats per token against {x_title} of"):
            (found,) = [drawn for drawn in svg.iter("polyline") if drawn.get("data-name") == name]
            x, y = ([float(v) for v in (found.get(f"data-{a}") or "").split()] for a in "xy")
            return x, y
    raise AssertionError(f"no chart {title} against {x_title}")


def test_curves_have_the_numbers_of_the_log_on_every_axis(copy):
    page = written(copy / "run")
    log = [json.loads(row) for row in (copy / "run" / "metrics.jsonl").read_text().splitlines()]
    scored = [row for row in log if row["val_loss"] is not None]
    steps, losses = line(page, "Validation loss", "step", "run")
    assert steps == [row["step"] for row in scored] == [0, 4, 8, 12]
    assert losses == pytest.approx([row["val_loss"] for row in scored], rel=1e-5)
    assert line(page, "Validation loss", "tokens", "run")[0] == [row["tokens"] for row in scored]
    flops = np.array(line(page, "Validation loss", "FLOPs", "run")[0][1:])
    assert flops / flops[-1] == pytest.approx([1 / 3, 2 / 3, 1], rel=1e-4)
    trained = [row for row in log if row["train_loss"] is not None]
    seconds = np.cumsum([64 / row["tokens_per_second"] for row in trained])
    assert line(page, "Training loss", "seconds of training", "run")[0] == pytest.approx(seconds, rel=1e-5)
    assert line(page, "Training loss", "step", "run")[1] == pytest.approx([r["train_loss"] for r in trained], rel=1e-5)


def test_the_bold_line_of_a_group_is_the_mean_of_its_seeds(copy):
    page = written(copy / "sweep")
    mean = line(page, "Validation loss", "step", "no-norm, mean of 2")[1]
    seeds = [line(page, "Validation loss", "step", f"no-norm-seed{seed}")[1] for seed in (0, 1)]
    assert mean == pytest.approx(np.mean(seeds, axis=0), rel=1e-4)


def test_a_report_requests_nothing_and_is_one_file(copy):
    page = Page(written(copy / "run", copy / "sweep"))
    for name in ("src", "href", "srcset", "action", "data"):
        assert {attributes[name] for _, attributes in page.elements if name in attributes} <= {"data:,"}
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")
    style = re.findall(r"<style>(.*?)</style>", written(copy / "run"), re.DOTALL)
    assert not re.search(r"url\(|@import", style[0])


def test_text_from_files_is_escaped(copy):
    run = (copy / "run").rename(copy / "a<b>&'c")
    row = {"step": 3, "accepted": None, "samples": [EVIL], "timestamp": None}
    (run / "samples.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    text = written(run)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert EVIL in page.text
    assert "a<b>&'c" in page.text
    assert len(drawings(text)) > 8  # all of them well-formed


def test_only_differences_of_settings_are_listed_and_seeds_share_a_row(copy):
    page = written(copy / "sweep")
    (section,) = re.findall(r'<section id="settings">.*?</section>', page, re.DOTALL)
    assert re.findall(r'scope="col">(.*?)</th>', section) == ["run", "norm", "seeds"]
    rows = re.findall(r'scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', section)
    assert rows == [("baseline", "rms", "0, 1"), ("no-norm", "none", "0, 1")]


def test_the_settings_of_a_single_run_are_compared_with_the_defaults(copy):
    (section,) = re.findall(r'<section id="settings">.*?</section>', written(copy / "run"), re.DOTALL)
    assert '<th scope="row">hidden_size</th><td>16</td><td>128</td>' in section
    assert "norm_eps" not in section


def test_an_ablation_shows_its_differences_and_what_they_say(copy):
    page = written(copy / "sweep")
    plots = [svg for svg in drawings(page) if svg.get("class") == "forest"]
    assert [svg.get("aria-label", "").partition(":")[0] for svg in plots] == [
        "At equal steps",
        "At equal FLOPs",
        "At equal seconds",
    ]
    losses = {r.run.name: r.val_loss for r in Sweep.load(copy / "sweep").results()}
    pairs = [losses[f"no-norm-seed{seed}"] - losses[f"baseline-seed{seed}"] for seed in (0, 1)]
    assert f"no-norm − baseline {np.mean(pairs):+.4f} [" in plots[0].get("aria-label", "")
    assert "no-norm against baseline: " in Page(page).text


def test_samples_of_a_step_are_side_by_side(copy):
    page = Page(written(copy / "sweep"))
    assert page.text.count("baseline-seed0") > 1
    assert [summary for summary in ("Step 0", "Step 6", "Step 12") if summary in page.text] == [
        "Step 0",
        "Step 6",
        "Step 12",
    ]
    sample = json.loads((copy / "sweep" / "no-norm-seed0" / "samples.jsonl").read_text().splitlines()[-1])
    assert sample["samples"][0].strip()[:40] in page.text


def status(page: str) -> dict[str, str]:
    """The status of each run in the table of runs."""
    return dict(re.findall(r'scope="row">([^<]*)</th><td><span class="status \w+">(\w+)', page))


def test_a_run_with_a_budget_is_finished_at_the_last_of_its_planned_steps(copy):
    run = RunDirectory(copy / "run")
    facts, steps = run.facts(), run.metrics.rows()[-1]["step"]
    budget = replace(run.config(), minutes=1.0)
    for planned, expected in ((steps, "finished"), (steps + 1, "stopped")):
        run.write_config(budget, {**facts, "lengths": [[0, steps - 1], [2, planned]]})
        assert run.max_steps() == planned
        assert status(written(copy / "run")) == {"run": expected}


def test_the_status_of_a_run_is_that_of_its_log_its_lock_and_its_outcome(copy, monkeypatch):
    assert status(written(copy / "run")) == {"run": "finished"}
    log = copy / "run" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    assert status(written(copy / "run")) == {"run": "stopped"}
    with file_lock(copy / "run" / ".lock"):
        assert status(written(copy / "run")) == {"run": "training"}

    def diverging(config, display):
        raise DivergenceError(f"the loss is nan {EVIL}")

    shutil.rmtree(copy / "sweep" / "baseline-seed1")
    shutil.rmtree(copy / "sweep" / "no-norm-seed1")
    monkeypatch.setattr(llamita.experiments.job, "train", diverging)
    Sweep.load(copy / "sweep").run(names=["no-norm-seed1"])
    page = written(copy / "sweep")
    assert status(page) == {
        "baseline-seed0": "finished",
        "no-norm-seed0": "finished",
        "baseline-seed1": "planned",
        "no-norm-seed1": "diverged",
    }
    assert f"the loss is nan {EVIL}" in Page(page).text


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_run_that_has_logged_little_has_a_report(copy, lines):
    log = copy / "run" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:lines]))
    (copy / "run" / "samples.jsonl").unlink()
    page = Page(written(copy / "run"))
    assert "No run has written samples yet." in page.text
    assert ("Validation loss: no run has measured it yet." in page.text) == (lines == 0)


def test_runs_of_one_name_are_told_apart_by_their_paths(copy):
    other = shutil.copytree(copy / "run", copy / "other" / "run")
    assert set(status(written(copy / "run", other))) == {str(copy / "run"), str(other)}


def test_the_command_writes_into_the_run_or_here_and_replaces_an_earlier_report(copy, capsys):
    assert command("report", copy / "run") == 0
    assert capsys.readouterr().out == f"report          {copy / 'run' / 'report.html'}\n"
    first = (copy / "run" / "report.html").stat().st_ino
    assert command("report", copy / "run") == 0
    assert (copy / "run" / "report.html").stat().st_ino != first  # a new file, renamed
    assert not list((copy / "run").glob(".report*"))
    assert command("report", copy / "run", copy / "run", copy / "sweep") == 0
    assert status(Path("report.html").read_text(encoding="utf-8")).keys() == {
        "run",
        *(f"sweep/{group}-seed{seed}" for group in ("baseline", "no-norm") for seed in (0, 1)),
    }
    assert command("report", copy / "run", "--output", "mine.html") == 0
    assert Path("mine.html").exists()


def test_what_is_no_run_and_no_sweep_is_refused_in_one_line(copy, capsys):
    assert "nowhere: no such run or sweep" in refusal(capsys, "report", "nowhere")
    assert f"{copy}: neither a run nor a sweep" in refusal(capsys, "report", copy)
    assert "the folder none does not exist" in refusal(capsys, "report", copy / "run", "--output", "none/x.html")
    for run in (copy / "sweep").glob("*-seed*"):
        shutil.rmtree(run)
    assert "no run of this sweep has started yet" in refusal(capsys, "report", copy / "sweep")
    assert not list(copy.rglob("*.html"))


def test_elements_escape_text_and_attributes_but_not_markup():
    inner = element("b", "1 < 2")
    assert element("p", inner, "&", None, class_='"x"', hidden=True, open=False, data_x=None) == (
        '<p class="&quot;x&quot;" hidden><b>1 &lt; 2</b>&amp;</p>'
    )
    assert element("p", Markup("<br>")) == "<p><br></p>"


@pytest.mark.parametrize("is_log", [False, True])
def test_a_scale_shows_all_values_and_its_ticks_are_inside(is_log):
    rng = np.random.default_rng(0)
    for size in (1e-8, 1e-3, 1.0, 1e6, 1e18):
        for ratio in (1.0, 1.001, 2.0, 50.0, 1e7):
            values = size * np.array([1.0, *rng.uniform(1, ratio, 5), ratio])
            scale = Scale.over(values.tolist(), 300, 10, is_log=is_log)
            at = scale(values)
            assert (at >= 10).all()
            assert (at <= 300).all()
            assert (np.diff(scale(np.sort(values))) <= 0).all()
            ticks = scale.ticks()
            assert 2 <= len(ticks) <= 7
            assert all(scale.low <= tick <= scale.high for tick in ticks)
            if ratio > 1.001:
                assert len({short(tick) for tick in ticks}) == len(ticks)


def test_a_chart_draws_points_where_its_scales_are_and_leaves_out_what_is_not_finite():
    x, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, np.nan, np.inf, 3.0])
    svg = ElementTree.fromstring(Chart("t", "step", "loss", [Line("one", x, y)], is_log_y=False).svg())
    (drawn,) = svg.iter("polyline")
    assert drawn.get("data-y") == "1 3"
    (x0, y0), (x1, y1) = ([float(v) for v in pair.split(",")] for pair in (drawn.get("points") or "").split())
    labels = {text.text: float(text.get("y", 0)) for text in svg.iter("text") if text.get("class") == "end"}
    assert y0 == pytest.approx(labels["1"] - 4, abs=0.11)
    assert y1 == pytest.approx(labels["3"] - 4, abs=0.11)
    assert x0 < x1


def test_a_forest_plot_places_means_and_intervals_on_one_scale():
    nan = np.nan
    rows = [Difference("a", 0.5, 0.25, 0.75, 5), Difference("b", -0.5, nan, nan, 1), Difference("c", nan, nan, nan, 0)]
    (text,) = re.findall(r"<svg.*</svg>", forest_plot("t", rows, "x"))
    svg = ElementTree.fromstring(text)
    lines = {kind: [e for e in svg.iter("line") if e.get("class") == kind] for kind in ("zero", "interval")}
    zero = float(lines["zero"][0].get("x1", 0))
    means = [float(circle.get("cx", 0)) for circle in svg.iter("circle")]
    low, high = (float(lines["interval"][0].get(end, 0)) for end in ("x1", "x2"))
    assert means[0] - zero == pytest.approx(zero - means[1], abs=0.2)
    assert (low + high) / 2 == pytest.approx(means[0], abs=0.2)
    assert "c no pair of finished runs" in svg.get("aria-label", "")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
def test_in_a_browser_the_page_fits_a_phone_and_switches_axes(copy):
    script = """
        document.body.style.width = "400px";
        const charts = () => [...document.querySelectorAll(".view")].filter((view) => view.offsetWidth).length;
        const found = [document.body.scrollWidth, charts()];
        document.getElementById("x-tokens").click();
        found.push(charts(), document.querySelector(".view[data-x=tokens]").offsetWidth > 300);
        const chart = document.querySelector(".view[data-x=tokens] svg");
        chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        found.push(document.getElementById("tip").textContent, performance.getEntriesByType("resource").length);
        document.body.dataset.found = JSON.stringify(found);"""
    page = written(copy / "sweep").replace("</script></body>", f"{script}</script></body>")
    (copy / "page.html").write_text(page, encoding="utf-8")
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    done = subprocess.run([*words, "--dump-dom", (copy / "page.html").as_uri()], capture_output=True, timeout=60)
    (found,) = re.findall(r'data-found="(.*?)"', done.stdout.decode())
    width, before, after, is_drawn, tip, requests = json.loads(found.replace("&quot;", '"'))
    assert width <= 400
    assert before == after == 4
    assert is_drawn
    assert re.fullmatch(r"baseline-seed0: \d\.\d+ at 0 tokens", tip)
    assert requests == 0
