"""Write docs/configuration.md from llamita/config/, so that the page and the code cannot disagree.

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

Every setting is a flag of `llamita train` (`--hidden_size 256`, or `--hidden-size 256`) and a key of a TOML file given
with `--config`, under the table that it stands in here. `--preset NAME` is such a file that comes with llamita:
`llamita presets` lists them. Flags win over the file, the file over the preset, the preset over the defaults. An
unknown name is answered with the nearest one. The run directory holds the whole configuration, resolved, as
`config.toml`.

`--config RUN/config.toml` is that run again, and with other flags beside it a run like it. What nobody asked for then
follows the flags: `num_heads`, `num_kv_heads`, `head_dim`, `intermediate_size` and `learning_rate` are derived again
where their value in the config.toml of a run is just what would be derived from the other settings there. So
`--hidden_size 256` is enough to change the width. Any other value stays, as do `vocab_size` and `max_steps`, which came
from the data; and in a file that no run wrote, which has no table `[facts]`, every value stays. What `auto` chose in
that run (device, precision, threads, kernels, compiling, micro-batch) is chosen again where the model has the same
shape and the processor is of the same kind, so that the numbers are the same bit for bit; else a note says that it is
chosen anew. `train(config, repeated="RUN/config.toml")` does so in Python.

Python constructs the same configuration from the same names, or from their aliases:
`llamita.config.replace(RunConfig(), hidden_size=256)` is `--hidden_size 256`, and
`replace(RunConfig.from_toml("my.toml"), lr=1e-3)` is `--config my.toml --lr 1e-3`. What nobody asked for is derived
again, and so is a derived setting that is replaced by 0.

*Identity* settings make a run what it is: with another value it is another run, and a resume with one is refused.
*Execution* settings may change from one start to the next. (What says which text, and which tokenizer, counts by what
these contain.)

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
    lines += ["\n## Other trainers' names", "They work as flags and as TOML keys, with `_` or `-`.", ""]
    lines += ["| name | here |", "|---|---|"]
    lines += [f"| `{alias}` | `{name}` |" for alias, name in config.ALIASES.items()]
    lines += ["\n## Settings of earlier versions", "They are ignored, with a note; a run that has them goes on.", ""]
    lines += ["| name | why it is no longer needed |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in config.RETIRED.items()]
    lines += ["\n## Generation", "Flags of `llamita generate`, and arguments of `llamita.generate.generate`.", ""]
    texts = documentation(config.GenerationConfig)
    lines += ["| setting | default | |", "|---|---|---|"]
    lines += [f"| `{f.name}` | {f.default} | {texts[f.name]} |" for f in fields(config.GenerationConfig)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
