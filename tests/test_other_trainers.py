"""Names, values and commands of other trainers: they work, or the message says what they are here."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import Hub
from runs import TINY, cache, command, flags, refusal, text, write_text
from stand_ins import serve_catalog
from test_cli import configuration

import llamita.train
from llamita.cli import examples
from llamita.config import ALIASES, SWITCHES, VALUES, RunConfig, field_tables, replace
from llamita.errors import UserError
from llamita.experiments import Ablation

fixtures = (cache, text)
PAGE = (Path(__file__).parents[1] / "docs" / "coming-from.md").read_text(encoding="utf-8")
ON_THE_PAGE = [
    line for line in re.findall(r"`(llamita [^`]*)`", PAGE) if " --" in line or '"' in line or "runs/" in line
]
IN_HELP = re.findall(
    r"^  (?:echo .* \| )?(llamita .+)$", "\n".join(vars(examples)[n] for n in dir(examples) if n.isupper()), re.M
)
SWEEPS = "llamita ablate", "llamita scaling"
"""They take from minutes to hours; their own tests run small ones."""
LINES = sorted({line for line in [*ON_THE_PAGE, *IN_HELP] if "RUN" not in line and "TEXT" not in line})


def test_the_page_has_commands():
    assert len(LINES) > 30


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("llamita train") and "--help" not in line])
def test_every_training_command_of_the_page_and_of_help_is_understood(monkeypatch, tmp_path, line):
    (tmp_path / "my.toml").write_text("[training]\nmax_steps = 3\n")
    words = shlex.split(line)[2:]
    config = configuration(monkeypatch, *words)
    assert config != RunConfig() or not words


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the texts and the run that the commands name; the run has the sizes that they name, too."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LLAMITA_CACHE", str(folder / "cache"))
        for name in ("input.txt", "my.txt", "a.txt"):
            write_text(folder / name)
        (folder / "b.jsonl").write_text('{"text": "the llama ran."}\n' * 50)
        options = {**TINY, "tokenizer": "bpe", "vocab_size": 300, "max_steps": 2, "eval_every": 2}
        sizes = {"hidden_size": 256, "num_layers": 6, "num_heads": 8, "max_seq_len": 128, "batch_size": 1}
        assert command("train", *flags(data="input.txt", output_dir="runs/mine", **{**options, **sizes})) == 0
    for name in ("first", "second"):
        shutil.copytree(folder / "runs" / "mine", folder / "runs" / name)
    (folder / "base.toml").write_text("[model]\nhidden_size = 64\n")
    (folder / "prompts.txt").write_text("the\nthe llama\n")
    return folder


@pytest.fixture(scope="module")
def corpora() -> Iterator[Hub]:
    """The corpora that the commands name, served from here."""
    with pytest.MonkeyPatch.context() as patch, serve_catalog(patch) as hub:
        yield hub


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(SWEEPS) and "--predict" not in line])
def test_every_sweep_of_help_is_planned(place, monkeypatch, capsys, line):
    planned: list[Any] = []

    def plan(ablation: Ablation, directory: Path, runner: object, command: str) -> SimpleNamespace:
        planned.extend(ablation.plan().runs)
        return SimpleNamespace(results=[], text=str)

    monkeypatch.setattr(Ablation, "run", plan)
    monkeypatch.setattr("llamita.cli.scaling._study", lambda *arguments: planned.append(arguments))
    monkeypatch.chdir(place)
    assert command(*shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert planned


QUICK = [line for line in LINES if not line.startswith(("llamita train", "llamita presets", *SWEEPS))]


@pytest.mark.parametrize("line", QUICK)
def test_every_other_command_of_the_page_and_of_help_runs(place, corpora, monkeypatch, capsys, line):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LLAMITA_CACHE", str(place / "cache"))
    monkeypatch.setattr("llamita.cli.generate._read_pipe", lambda: "the")
    shorter = line.replace("step_00000500", "step_00000002")
    shorter = shorter.replace("my_tokenizer", "runs/mine") if "encode" in line or "decode" in line else shorter
    words = re.sub(r"(--max_(?:new_)?tokens) \d+", r"\1 4", shorter)
    quick = ["--max_new_tokens", "4"] if re.match("llamita generate", line) and "tokens" not in line else []
    assert command(*shlex.split(words)[1:], *quick) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--dtype=float32"], {"precision": "fp32"}),
        (["--dtype", "bfloat16"], {"precision": "bf16"}),
        (["--dtype=float16", "--compile=False"], {"precision": "fp16", "compile": "off"}),
        (["--compile=True"], {"compile": "on"}),
        (["--compile"], {"compile": "on"}),
        (["--compile", "--seed", "1"], {"compile": "on", "seed": 1}),
        (["--no-compile"], {"compile": "off"}),
        (["--compile", "false"], {"compile": "off"}),
        (["--torch_compile", "graphs"], {"compile": "graphs"}),
        (["--precision", "bf16-mixed"], {"precision": "bf16"}),
        (["--precision=32-true"], {"precision": "fp32"}),
        (["--mixed-precision", "no"], {"precision": "fp32"}),
        (["--use_amp"], {"precision": "auto"}),
        (["--use_amp=False"], {"precision": "fp32"}),
        (["--no-use-amp"], {"precision": "fp32"}),
        (["--use-amp", "false", "--seed", "1"], {"precision": "fp32", "seed": 1}),
        (["--bf16"], {"precision": "bf16"}),
        (["--bf16", "True"], {"precision": "bf16"}),
        (["--fp16=False"], {}),
        (["--no_cuda"], {"device": "cpu"}),
        (["--decay_lr=False"], {"schedule": "constant", "decay_share": 0.0}),
        (["--decay_lr=True"], {}),
        (["--lr_scheduler_type", "constant_with_warmup"], {"schedule": "constant"}),
        (["--bias=False", "--tie_word_embeddings=False"], {"bias": False, "tie_embeddings": False}),
        (["--attention_block", "64", "--seed", "1"], {"seed": 1}),
        (["--attention_block", "--seed", "1"], {"seed": 1}),
    ],
    ids=str,
)
def test_values_and_switches_of_other_trainers_are_understood(monkeypatch, words, settings):
    assert configuration(monkeypatch, *words) == replace(RunConfig(), **settings)


@pytest.mark.parametrize(
    ("toml", "settings"),
    [
        ("[run]\ndtype = 'float32'\ncompile = false", {"precision": "fp32", "compile": "off"}),
        ("[run]\nuse_amp = false", {"precision": "fp32"}),
        ("[run]\nuse_amp = true", {}),
        ("[run]\nbf16 = true", {"precision": "bf16"}),
        ("[optimizer]\ndecay_lr = false", {"schedule": "constant", "decay_share": 0.0}),
    ],
    ids=str,
)
def test_files_and_python_understand_them_too(tmp_path, toml, settings):
    (tmp_path / "mine.toml").write_text(toml)
    assert RunConfig.from_toml(tmp_path / "mine.toml") == replace(RunConfig(), **settings)


def test_every_translated_value_is_one_of_the_setting():
    for name, values in VALUES.items():
        for value, own in values.items():
            assert replace(RunConfig(), **{name: value}) == replace(RunConfig(), **{name: own})


def test_a_switch_that_is_neither_on_nor_off_is_refused(capsys, tmp_path):
    assert "--use_amp is 'maybe', but must be true or false" in refusal(capsys, "train", "--use_amp=maybe")
    with pytest.raises(UserError, match="configuration: bf16 is 'x', but must be true or false"):
        replace(RunConfig(), bf16="x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--wandb_log"], "unknown flag --wandb_log: --track here"),
        (["train", "--wandb-project", "x"], "unknown flag --wandb-project: --track"),
        (["train", "--max_tokens", "5"], "unknown flag --max_tokens: --max_steps here"),
        (["train", "--eval_iters=20"], "unknown flag --eval_iters: --eval_sequences here"),
        (
            ["train", "--warmup_ratio", "0.1"],
            "unknown flag --warmup_ratio: --warmup_steps here (steps, not a fraction)",
        ),
        (["train", "--temperature", "1"], "`llamita train` does not have it, `llamita generate` does"),
        (["train", "--max_new_tokens", "1"], "`llamita train` does not have it, `llamita generate` does"),
        (["eval", "--n_embd", "8"], "unknown flag --n_embd: `llamita eval` does not have it, `llamita train` does"),
        (["train", "--blok_size", "8"], "Did you mean --block_size?"),
        (["train", "--hidden-sise", "8"], "Did you mean --hidden_size?"),
        (["train", "--qqqqqq", "8"], "See `llamita train --help`"),
        (["train", "--resume"], "unknown flag --resume: the same command again here"),
        (["prepare_data"], "llamita prepare --data"),
        (["train_quick.py"], "llamita train --data"),
        (["ablation_something_else"], "llamita train --data"),
        (["llama-generate"], "llamita generate --checkpoint"),
    ],
    ids=str,
)
def test_what_llamita_does_not_have_is_answered_with_what_it_has(capsys, words, message):
    assert message in refusal(capsys, *words)


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["train", "--max_iters", "-1"], "--max_iters is -1"),
        (["train", "--n-embd=100", "--n-head=3"], "--n-embd 100 is not divisible by --n-head 3"),
        (["train", "--lr", "nan"], "--lr is nan"),
        (["train", "--context-length", "0"], "--context-length is 0"),
        (["train", "--dropout_prob", "2"], "--dropout_prob is 2.0"),
        (["train", "--dtype", "fp8"], "--dtype"),
        (["train", "--batch-size", "lots"], "--batch-size"),
        (["generate", "--max_tokens", "0"], "--max_tokens is 0"),
        (["generate", "--rep_pen", "0"], "--rep_pen is 0"),
    ],
    ids=str,
)
def test_a_mistake_is_named_as_it_was_typed(capsys, words, typed):
    error = refusal(capsys, *words)
    assert typed in error
    for alias, own in ALIASES.items():
        if f"--{alias}" in [word.replace("-", "_").replace("__", "--") for word in words]:
            assert f"--{own} " not in error


def test_sizes_of_the_model_are_checked_by_generate(text, tmp_path, capsys):
    small = {**TINY, "max_steps": 1}
    assert command("train", *flags(data=text, output_dir="run", **small)) == 0
    sizes = ["--n_embd", 16, "--num_layers", "1", "--n-head=2", "--context_length", 16, "--max_tokens", 2]
    assert command("generate", "--checkpoint", "run", "--prompt", "the", *sizes) == 0
    assert command("generate", "--checkpoint", "run", "--prompt", "the", "--num_kv_heads", 0, "--max_tokens", 2) == 0
    error = refusal(capsys, "generate", "--checkpoint", "run", "--prompt", "the", "--d_model", 1024)
    assert "--d_model is 1024, but the run has 16: leave it out" in error


def test_every_setting_has_at_most_one_meaning():
    assert not SWITCHES.keys() & (ALIASES.keys() | field_tables().keys())
    assert callable(llamita.train.train)
