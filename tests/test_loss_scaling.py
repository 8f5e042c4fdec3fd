"""fp16: gradients that overflow halve the scale as torch's GradScaler does, and a run resumes with its scale."""

import json

import pytest
import torch
from runs import cache as cache
from runs import command, last_checkpoint, refusal, rows, text, train_words

from llamita.optim import DynamicLossScaling, NoScaling, clip_grad_norm_

fixtures = (text,)


def overflowing(step: int) -> bool:
    return step % 7 == 0 or step in (20, 21, 22, 23)


def test_scale_and_weights_follow_torchs_grad_scaler():
    """The gradients overflow in fp32, too: the factor 3e38 ensures it at any scale."""
    torch.manual_seed(0)
    start = torch.randn(5)
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    ours, torchs = (torch.optim.SGD([p], lr=1e-3, momentum=0.9) for p in (mine, theirs))
    scaling = DynamicLossScaling(growth_interval=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=4)
    scales, expected = [], []
    for step in range(60):
        factor = 3e38 if overflowing(step) else 1.0
        for parameter in (mine, theirs):
            parameter.grad = None
        ((mine**2).sum() * factor * scaling.scale).backward()
        scaling.unscale_([mine])
        updated = scaling.step(ours, clip_grad_norm_([mine], 0.5))
        scaler.scale((theirs**2).sum() * factor).backward()
        scaler.unscale_(torchs)
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        scaler.step(torchs)
        scaler.update()
        assert updated is not overflowing(step)
        scales.append(scaling.scale)
        expected.append(scaler.get_scale())
    assert scales == expected
    assert len(set(scales)) > 4
    torch.testing.assert_close(mine, theirs)


def test_overflowing_fp16_gradients_leave_the_weights_unchanged_until_the_scale_fits():
    weight = torch.nn.Parameter(torch.full((3,), 2.0))
    optimizer, scaling = torch.optim.SGD([weight], lr=0.1), DynamicLossScaling()
    updates = []
    for _ in range(8):
        optimizer.zero_grad()
        wide = weight.half()
        (wide.square().sum().float() * 10 * scaling.scale).backward()  # 40 * 65536 is more than fp16 holds
        scaling.unscale_([weight])
        updates.append(scaling.step(optimizer, clip_grad_norm_([weight], 1.0)))
    assert updates[:2] == [False, False]
    assert updates[-1]
    assert weight.isfinite().all()
    assert scaling.scale < 65536


def test_a_restored_state_continues_where_it_was():
    scaling = DynamicLossScaling(growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    norms = [1.0, 1.0, float("inf"), 1.0, 1.0, 1.0, 1.0]
    course = []
    for norm in norms:
        scaling = DynamicLossScaling(**json.loads(json.dumps(scaling.state())))
        scaling.step(optimizer, torch.tensor(norm))
        course.append((scaling.scale, scaling.good_steps))
    assert course == [(65536, 1), (65536, 2), (32768, 0), (32768, 1), (32768, 2), (65536, 0), (65536, 1)]


def test_other_precisions_scale_nothing():
    assert NoScaling().scale == 1.0
    assert NoScaling().state() is None


def test_an_fp16_run_learns_logs_finite_norms_and_resumes_its_scale_bitwise(text, tmp_path):
    options = {"precision": "fp16", "max_steps": 40, "save_every": 20, "eval_every": 20, "learning_rate": 1e-2}
    assert command(*train_words(text, tmp_path / "whole", **options)) == 0
    losses = [row["train_loss"] for row in rows(tmp_path / "whole") if row["train_loss"] is not None]
    assert losses[-1] < losses[0] - 0.3
    assert "Infinity" not in (tmp_path / "whole" / "metrics.jsonl").read_text()
    run = tmp_path / "run"
    assert command(*train_words(text, run, **options)) == 0
    for file in (run / "step_00000040").iterdir():
        file.unlink()
    (run / "step_00000040").rmdir()
    assert command(*train_words(text, run, **options)) == 0
    assert last_checkpoint(run) == last_checkpoint(tmp_path / "whole")
    scalers = [
        json.loads((r / "step_00000040" / "manifest.json").read_text())["scaler"] for r in (run, tmp_path / "whole")
    ]
    assert scalers[0] == scalers[1]
    assert scalers[0]["scale"] >= 1


def test_fp16_learns_nearly_what_fp32_learns(text, tmp_path):
    for precision in ("fp16", "fp32"):
        assert command(*train_words(text, tmp_path / precision, precision=precision, max_steps=30)) == 0
    narrow, wide = (rows(tmp_path / precision)[-1]["val_loss"] for precision in ("fp16", "fp32"))
    assert narrow == pytest.approx(wide, abs=0.05)


def test_a_non_finite_loss_is_reported_in_fp16_too(text, tmp_path, capsys):
    words = train_words(text, tmp_path / "run", precision="fp16", learning_rate=1e30, grad_clip=0, max_steps=60)
    assert "training has diverged" in refusal(capsys, *words)
