"""`benchmarks/gpu.py`, as far as it can be run without a GPU: at toy size."""

import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
from runs import cache

import gpu
from common.command import UsageError
from gpu_sections import SECTIONS, report
from gpu_sections.attention import is_fused
from gpu_sections.report import MARKDOWN, NUMBERS, Report, choose_sections, run_section, write_report
from gpu_sections.resume import largest_difference
from gpu_sections.section import Section, Setting
from gpu_sections.tests import summarize
from gpu_sections.training import problem_of

fixtures = (cache,)
TOY = Setting("cpu", folder="")


@pytest.mark.slow
def test_without_a_gpu_every_section_runs_at_toy_size(tmp_path):
    assert gpu.main(["--toy", "--output", str(tmp_path / "report")]) == 0
    found = json.loads((tmp_path / "report" / NUMBERS).read_text(encoding="utf-8"))["sections"]
    assert {name: section["status"] for name, section in found.items()} == {
        **dict.fromkeys(SECTIONS, "passed"),
        "attention": "skipped",
    }
    assert "skipped: no CUDA device" in found["attention"]["summary"]
    assert found["attention"]["data"]
    assert found["resume"]["data"]["difference"] == 0
    markdown = (tmp_path / "report" / MARKDOWN).read_text(encoding="utf-8")
    assert all(f"## {title}" in markdown for title in SECTIONS.values())


def test_a_section_that_fails_is_reported_and_the_next_ones_run(tmp_path, monkeypatch, capsys):
    def run(name: str, setting: Setting, limit: float) -> Section:
        return Section("failed", "it broke", ["why"]) if name == "training" else Section("passed", "fine")

    monkeypatch.setattr(report, "run_section", run)
    assert gpu.main(["--toy", "--output", str(tmp_path)]) == 1
    assert gpu.main(["--toy", "--output", str(tmp_path / "one"), "--sections", "tests"]) == 0
    sections = json.loads((tmp_path / NUMBERS).read_text(encoding="utf-8"))["sections"]
    assert list(sections) == list(SECTIONS)
    assert [name for name, section in sections.items() if section["status"] == "failed"] == ["training"]
    assert "failed: Training in bf16 and fp16" in capsys.readouterr().out
    assert "\n## Training in bf16 and fp16\n\nwhy\n" in (tmp_path / MARKDOWN).read_text(encoding="utf-8")


def test_the_report_is_written_after_every_section(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "run_section", lambda name, setting, limit: Section())
    lines = write_report(["tests", "resume"], Report("a GPU"), TOY, tmp_path, 1)
    next(lines)
    assert list(json.loads((tmp_path / NUMBERS).read_text(encoding="utf-8"))["sections"]) == ["tests"]


def test_an_error_in_a_section_comes_back_with_its_traceback():
    section = run_section("training", Setting("no_such_device", folder=""), 60)
    assert section.status == "failed"
    assert "no_such_device" in section.summary
    assert "Traceback (most recent call last):" in section.lines


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for Python")
def test_a_section_whose_process_dies_or_hangs_has_failed(monkeypatch, tmp_path):
    """A script in place of Python that exits immediately without a result, and one that sleeps."""
    for name, script in {"dies": "import sys; sys.exit('gone')", "hangs": "import time; time.sleep(60)"}.items():
        (tmp_path / f"{name}.py").write_text(script)
    python = tmp_path / "python"
    for script, limit, said in (("dies", 60, "its process ended with 1"), ("hangs", 0.1, "not finished after")):
        python.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / script}.py\n")
        python.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(report.sys, "executable", str(python))
            section = run_section("training", TOY, limit)
        assert section.status == "failed"
        assert said in section.summary


def test_a_section_travels_as_json():
    section = Section("failed", "a | b", ["x"], {"n": [1.5]})
    assert Section(**json.loads(json.dumps(asdict(section)))) == section


def test_sections_come_in_the_order_of_the_report():
    assert choose_sections([]) == list(SECTIONS)
    assert choose_sections(["resume", "tests"]) == ["tests", "resume"]
    with pytest.raises(UsageError, match="--sections: 'speed' is unknown: choose from tests, training"):
        choose_sections(["speed"])


@pytest.mark.parametrize(
    ("kernels", "fused"),
    [
        (
            ["void pytorch_flash::flash_fwd_kernel<>", "void pytorch_flash::flash_bwd_dq_dk_dv_loop_kernel<>"],
            True,
        ),
        (["fmha_cutlassF_bf16_aligned_64x64_rf_sm80(...)", "fmha_cutlassB_bf16_aligned_64x64_k64_sm80(...)"], True),
        (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", "cudnn_generated_sdpa_sm90_flash_bprop"], True),
        (["void pytorch_flash::flash_fwd_kernel<...>", "sm90_xmma_gemm_bf16bf16"], False),
        (["void (anonymous namespace)::softmax_warp_forward<...>", "softmax_warp_backward", "sm90_xmma_gemm"], False),
    ],
)
def test_a_fused_attention_kernel_is_known_by_its_name_in_both_directions(kernels, fused):
    assert is_fused(kernels) == fused


@pytest.mark.parametrize(
    ("losses", "problem"),
    [([4.0, 3.0], ""), ([4.0, 4.1], "does not learn"), ([4.0, float("nan")], "NaN"), ([float("inf"), 1.0], "infinite")],
)
def test_a_run_is_good_if_its_losses_are_finite_and_fall(losses, problem):
    rows = [{"train_loss": 4.0, "val_loss": loss} for loss in losses]
    assert problem_of(rows) == "" if not problem else problem in problem_of(rows)


def test_what_pytest_printed_becomes_counts_and_names():
    output = "..F\nFAILED tests/test_x.py::test_y - AssertionError\n1 failed, 2 passed, 3 skipped in 0.1s"
    section = summarize(1, output, ("test_x.py",))
    assert section.status == "failed"
    assert section.summary == "1 failed, 2 passed, 3 skipped"
    assert section.data["failed"] == ["tests/test_x.py::test_y - AssertionError"]
    assert summarize(4, "ERROR: file not found", ("test_x.py",)).summary == "pytest ended with 4"


def test_the_difference_of_weights_is_the_largest_of_all():
    one, other = ({"a": np.array([1.0, 2.0]), "b": np.array([x])} for x in (3.0, 3.5))
    assert largest_difference(one, other) == 0.5
    assert largest_difference(one, one) == 0
