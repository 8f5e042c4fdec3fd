"""A tiny run of `llamita.train` in bf16 and fp16: does the loss fall, and are all losses finite?"""

import json
import math
from pathlib import Path
from typing import Any

from common.made_up_text import made_up_text
from common.markdown import header, line
from gpu_sections.section import Section, Setting

PRECISIONS = ("bf16", "fp16")
STEPS = {"cuda": 200, "cpu": 12}
DOCUMENTS = 40


def run(setting: Setting) -> Section:
    """Train once per precision."""
    text = Path(setting.folder) / "text.txt"
    text.write_text(made_up_text(DOCUMENTS), encoding="utf-8", newline="")
    rows = {precision: _losses(setting, text, precision) for precision in PRECISIONS}
    problems = [f"{precision} {problem}" for precision, found in rows.items() if (problem := problem_of(found))]
    lines = [header(("precision", "steps", "first validation loss", "last validation loss", "last train loss"))]
    for precision, found in rows.items():
        scored, trained = (values(found, name) for name in ("val_loss", "train_loss"))
        losses = [f"{loss:.4f}" for loss in (scored[0], scored[-1], trained[-1])]
        lines.append(line([precision, str(found[-1]["step"]), *losses]))
    return Section.judged(problems, "learns in bf16 and fp16", lines, {"metrics": rows})


def _losses(setting: Setting, text: Path, precision: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl of a run."""
    from llamita.config import RunConfig
    from llamita.train import train

    steps = STEPS["cuda" if setting.on_gpu else "cpu"]
    directory = Path(setting.folder) / precision
    config = RunConfig.from_tables(
        {
            "model": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "max_seq_len": 64},
            "data": {"data": [str(text)], "tokenizer": "char"},
            "optimizer": {"warmup_steps": 2, "learning_rate": 4e-3},
            "training": {"batch_size": 8, "max_steps": steps},
            "run": {
                "output_dir": str(directory), "device": setting.device, "precision": precision, "log_every": 1,
                "eval_every": steps // 2, "eval_sequences": 32, "sample_count": 2, "compile": "off",
            },
        }
    )  # fmt: skip
    train(config)
    return [json.loads(row) for row in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def values(rows: list[dict[str, Any]], name: str) -> list[float]:
    """The numbers of that name, of the rows that have one."""
    return [row[name] for row in rows if row.get(name) is not None]


def problem_of(rows: list[dict[str, Any]]) -> str:
    """What is wrong with the losses of a run; empty if nothing is."""
    scored, trained = values(rows, "val_loss"), values(rows, "train_loss")
    if not all(map(math.isfinite, scored + trained)):
        return "has losses that are NaN or infinite"
    return "" if scored[-1] < scored[0] else f"does not learn: validation loss {scored[0]:.4f}, then {scored[-1]:.4f}"
