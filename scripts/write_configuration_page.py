"""Generate docs/configuration.md from llamita/config/, so that the page always matches the code.

python scripts/write_configuration_page.py
"""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

from llamita import config

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
TABLES = {
    "model": config.ModelConfig,
    "data": config.DataConfig,
    "optimizer": config.OptimizerConfig,
    "training": config.TrainingConfig,
    "run": config.ExecutionConfig,
}
INTRODUCTION = """# Configuration

Every setting is a flag of `llamita train` (`--hidden_size 256`, or `--hidden-size 256`) and a key of a TOML file for
`--config`, in the table that it has on this page. `--preset NAME` is such a file that comes with llamita:
`llamita presets` lists them. Flags override the file, the file overrides the preset, the preset overrides the defaults.
The message about an unknown name suggests the nearest one. The run directory contains the whole configuration,
resolved, as `config.toml`.

Whole numbers may be written `10000`, `10_000`, `1e4` or `10k` (also M, B); in TOML, `10_000` or `1e4`. 0, auto or empty
stands for a derived value or for off, as described for each setting.

`--config RUN/config.toml` repeats that run, and with other flags starts a similar one. Values that were not set follow
the flags: sizes of the model except `vocab_size` and `max_seq_len`, `learning_rate` and `batch_size` are derived again
if their value in the config.toml of a run is the one derived from the other settings there. So `--hidden_size 256` is
enough to change the width, and `--size 20M` replaces the whole shape, learning rate and batch, set or not.
Every other value stays, as do `vocab_size` and `max_steps`, which came from the data. In a file that no run wrote,
which has no table `[facts]`, every value stays, except that `--size` replaces these there, too. What `auto` chose in
that run (device, precision, threads, kernels, compilation, micro-batch) is chosen again if the model has the same shape
and the processor is of the same kind, so that the run is bitwise reproducible; otherwise a note says that it is chosen
from scratch.
`train(config, repeated="RUN/config.toml")` does this in Python. A run with a budget of `minutes` is repeated with as
many steps as it had, also if the machine is slower or faster now; with another setting, its steps are planned again.

Python constructs the same configuration from the same names, or from their aliases:
`llamita.config.replace(RunConfig(), hidden_size=256)` is `--hidden_size 256`, and
`replace(RunConfig.from_toml("my.toml"), lr=1e-3)` is `--config my.toml --lr 1e-3`. Values that were not set are
derived again, and so is a derived setting that is replaced by 0.

*Identity* settings define the experiment: another value is another run, and resuming a run with one is refused.
*Execution* settings may change when a run is resumed. (Text and tokenizer count by their content, `size` and `depth` by
the shape, learning rate and batch that follow from them.)

This page is written by `python scripts/write_configuration_page.py`.
"""


def documentation(cls: type) -> dict[str, str]:
    """The docstring below each field."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def table(name: str, cls: type) -> list[str]:
    """The section of one TOML table."""
    texts = documentation(cls)
    lines = [f"\n## [{name}]", (cls.__doc__ or "").splitlines()[0], "", "| setting | default | |", "|---|---|---|"]
    for field in fields(cls):
        kind = "execution" if name == "run" or field.metadata.get("execution") else "identity"
        default = config.DataConfig().data if field.name == "data" else field.default
        shown = ", ".join(default) if isinstance(default, tuple) else str(default).lower() if default != "" else "empty"
        lines.append(f"| `{field.name}` | {shown} | {texts[field.name]} *{kind}* |".replace("<", "\\<"))
    return lines


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION.rstrip()]
    for name, cls in TABLES.items():
        lines += table(name, cls)
    lines += ["\n## Names of other trainers", "They work as flags and as TOML keys, with `_` or `-`.", ""]
    lines += ["| name | here |", "|---|---|"]
    lines += [f"| `{alias}` | `{name}` |" for alias, name in config.ALIASES.items()]
    lines += ["\n## Values of other trainers", "They work for the setting and for its other names.", ""]
    lines += ["| setting | value | here |", "|---|---|---|"]
    lines += [f"| `{n}` | `{v}` | `{own}` |" for n, values in config.VALUES.items() for v, own in values.items()]
    lines += ["\n## Switches of other trainers", "`--use_amp`, `--use_amp=False`; in TOML `use_amp = true`.", ""]
    lines += ["| switch | on | off |", "|---|---|---|"]
    lines += [f"| `{name}` | {settings(on)} | {settings(off)} |" for name, (on, off) in config.SWITCHES.items()]
    lines += ["\n## Settings of earlier versions", "They are ignored, with a note; a run that has them resumes.", ""]
    lines += ["| name | why it is no longer needed |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in config.RETIRED.items()]
    lines += ["\n## Generation", "Flags of `llamita generate`, and arguments of `llamita.generate.generate`.", ""]
    texts = documentation(config.GenerationConfig)
    lines += ["| setting | default | |", "|---|---|---|"]
    lines += [f"| `{f.name}` | {f.default} | {texts[f.name]} |" for f in fields(config.GenerationConfig)]
    return "\n".join(lines) + "\n"


def settings(values: dict[str, object]) -> str:
    """The settings of a switch, as flags."""
    return " ".join(f"`--{name} {value}`" for name, value in values.items()) or "the default"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
