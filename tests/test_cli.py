"""The command line: help, flags, files, aliases, pipes; and the commands as users type them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import (
    CONTROL_CHARACTERS,
    TINY,
    cache,
    command,
    flags,
    last_checkpoint,
    refusal,
    runs_in,
    text,
    train_words,
    tree,
)

import llamita.train
from llamita.cli.flags import canonical_flags
from llamita.config import ALIASES, ModelConfig, OptimizerConfig, RunConfig, field_tables
from llamita.tokenizer import load_tokenizer, train_tokenizer
from llamita.train import RunDirectory

fixtures = (cache, text)
COMMANDS = [[], ["prepare"], ["train"], ["eval"], ["generate"], ["tokenizer"], ["tokenizer", "train"]]
COMMANDS += [["tokenizer", "encode"], ["tokenizer", "decode"]]
LLAMITA = "from llamita.cli.main import main; main()"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess:
    """What a shell makes of a line in which `llamita` is the command."""
    return subprocess.run(
        ["bash", "-c", f"""set -o pipefail; llamita() {{ "{sys.executable}" -c "{LLAMITA}" "$@"; }}; {line}"""],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def configuration(monkeypatch, *words) -> RunConfig:
    """The configuration that `llamita train` would train."""
    taken = []

    def take(config, *_, **__):
        taken.append(config)
        raise SystemExit(0)

    monkeypatch.setattr(llamita.train, "train", take)
    assert command("train", *words) == 0
    return taken[0]


def test_the_help_of_every_command_exits_0_and_loads_no_torch():
    call = (
        "import sys; from llamita.cli.main import main\n"
        f"for words in {COMMANDS!r}:\n"
        "    try: main([*words, '--help'])\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'safetensors'} & sys.modules.keys(), 'torch was loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in COMMANDS:
        assert f"Usage: llamita {' '.join(words)}".rstrip() in done.stdout


def test_the_help_of_train_names_every_field(capsys):
    assert command("train", "--help") == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in field_tables())


def test_the_version_is_printed(capsys):
    assert command("--version") == 0
    assert capsys.readouterr().out.strip() == llamita.__version__


def test_python_m_llamita_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "llamita", "trian"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("llamita: ")
    helped = subprocess.run([sys.executable, "-m", "llamita", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert "Usage: llamita COMMAND" in helped.stdout


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["trian"], '"train"'),
        (["train", "--hidden_sise", "3"], "--hidden_size"),
        (["train", "--learning-rat=1"], "--learning_rate"),
        (["generate", "--temprature", "1"], "--temperature"),
        (["eval", "--checkpiont", "x"], "--checkpoint"),
        (["tokenizer", "tran"], '"train"'),
        (["train", "--windows", "strem"], '"stream"'),
    ],
    ids=str,
)
def test_an_unknown_name_is_reported_with_the_nearest_one(capsys, words, nearest):
    assert f"Did you mean {nearest}" in refusal(capsys, *words)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[model]\nhidden_sise = 3", "unknown key 'hidden_sise'; did you mean 'hidden_size'?"),
        ("[modle]\nhidden_size = 3", "unknown table 'modle'; did you mean 'model'?"),
        ("[run]\nhidden_size = 3", "'hidden_size' is under [run], but belongs under [model]"),
        ("hidden_size = 3", "it belongs under [model]"),
        ("[model]\nhidden_size = 16.5", "hidden_size is 16.5, but must be a whole number"),
        ("[model]\ntie_embeddings = 'no'", "tie_embeddings is 'no', but must be true or false"),
        ("[training]\nmax_steps = true", "max_steps is True, but must be a whole number"),
        ("[data]\ndata = 3", "data is 3, but must be"),
        ("[data]\nwindows = 'strem'", "windows is 'strem', but must be one of 'auto', 'stream', 'document'"),
        ("[model", "not a readable TOML file"),
        ("\x00", "not a readable TOML file"),
    ],
    ids=str,
)
@pytest.mark.parametrize("what", ["train", "prepare"])
def test_a_mistake_in_a_file_is_reported_with_file_and_key(tmp_path, capsys, what, toml, message):
    (tmp_path / "mine.toml").write_text(toml)
    error = refusal(capsys, what, "--config", "mine.toml")
    assert "mine.toml" in error
    assert message in error


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_every_alias_is_understood_in_every_spelling(alias, name):
    for spelled in (alias, alias.replace("_", "-")):
        assert canonical_flags([f"--{spelled}", "64"]) == [f"--{name}", "64"]
        assert canonical_flags([f"--{spelled}=64"]) == [f"--{name}=64"]


def test_a_switch_is_turned_off_by_its_other_names_too(monkeypatch):
    for flag in ("--no-tie-embeddings", "--no_tie_embeddings", "--no-tie-weights", "--no_tie_word_embeddings"):
        assert configuration(monkeypatch, flag).model.tie_embeddings is False


@pytest.mark.parametrize("words", [("--world_size", "1.5"), ("--batch-size=2.01",), ("--eval_every", ".5")], ids=str)
def test_a_fraction_for_a_whole_number_is_refused_not_rounded(capsys, words):
    flag = words[0].partition("=")[0]
    assert f"{flag} is {words[-1].rpartition('=')[2]}, but must be a whole number" in refusal(capsys, "train", *words)


def test_fractions_are_fine_where_they_belong_and_30_point_0_is_whole(monkeypatch):
    config = configuration(monkeypatch, "--epochs", "1.5", "--batch_size", "30.0")
    assert (config.training.epochs, config.training.batch_size) == (1.5, 30)


def test_values_and_what_follows_two_dashes_are_no_aliases():
    assert canonical_flags(["generate", "lr", "--prompt", "block_size", "--", "--lr"]) == [
        *("generate", "lr", "--prompt", "block_size", "--", "--lr")
    ]


def test_aliases_dashes_and_equals_signs_reach_the_configuration(monkeypatch):
    words = ["--block_size=64", "--data-file", "a.txt", "b.txt", "--lr", "1e-4", "--n_embd", "32", "--max-iters=7"]
    config = configuration(monkeypatch, *words, "--grad-accum-steps", "2", "--no-tie-embeddings", "--extend")
    assert (config.model.max_seq_len, config.model.hidden_size, config.model.tie_embeddings) == (64, 32, False)
    assert (config.data.data, config.optimizer.learning_rate) == (("a.txt", "b.txt"), 1e-4)
    assert (config.training.max_steps, config.training.grad_accum_steps, config.run.extend) == (7, 2, True)


def test_without_flags_and_file_everything_has_its_default(monkeypatch):
    assert configuration(monkeypatch) == RunConfig()


FILE = """
[model]
hidden_size = 48
n_layer = 2
tie_embeddings = false
[data]
data = ["a.txt", "b.txt"]
tokenizer = "char"
windows = "document"
[optimizer]
lr = 1
[training]
seed = 3
[run]
name = "mine"
log_every = 5
"""


def test_a_file_sets_what_flags_do_not_and_flags_override_it(monkeypatch, tmp_path):
    (tmp_path / "mine.toml").write_text(FILE)
    assert configuration(monkeypatch, "--config", "mine.toml") == RunConfig.from_toml("mine.toml")
    flagged = ["--tokenizer", "bpe", "--data", "c.txt", "--lr=0.5", "--tie_embeddings", "--seed", "0"]
    config = configuration(monkeypatch, *flagged, "--config=mine.toml")
    assert (config.data.tokenizer, config.data.data, config.data.windows) == ("bpe", ("c.txt",), "document")
    assert (config.optimizer.learning_rate, config.training.seed, config.run.log_every) == (0.5, 0, 5)
    assert (config.model.hidden_size, config.model.num_layers, config.model.tie_embeddings) == (48, 2, True)


def config_of_a_run(folder: Path, **sizes) -> Path:
    """A config.toml as a run writes it, of width 192 unless told otherwise, with the learning rate of that width."""
    model = ModelConfig(**{"hidden_size": 192, **sizes})
    rate = OptimizerConfig(learning_rate=0.75 / model.hidden_size)
    RunDirectory(folder).write_config(RunConfig(model=model, optimizer=rate), {"threads": 1})
    return folder / "config.toml"


def test_derived_values_in_the_config_of_a_run_follow_the_flags(monkeypatch, tmp_path):
    words = ["--config", config_of_a_run(tmp_path)]
    assert configuration(monkeypatch, *words).model == ModelConfig(hidden_size=192)
    wider = configuration(monkeypatch, *words, "--hidden_size", "256")
    assert wider.model == ModelConfig(hidden_size=256)
    assert wider.optimizer.learning_rate == 0  # so it will be derived from the new width
    fewer = configuration(monkeypatch, *words, "--num_heads", "3")
    assert fewer.model == ModelConfig(hidden_size=192, num_heads=3, num_kv_heads=3, head_dim=64)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"num_heads": 4}, {"num_heads": 4, "num_kv_heads": 4, "head_dim": 64, "intermediate_size": 688}),
        ({"num_kv_heads": 2}, {"num_heads": 8, "num_kv_heads": 2, "head_dim": 32}),
        ({"intermediate_size": 500}, {"num_heads": 8, "intermediate_size": 500}),
        ({"head_dim": 16, "num_heads": 6}, {"num_heads": 8, "head_dim": 16}),
        ({"hidden_size": 100, "num_heads": 6, "head_dim": 16}, {"num_heads": 6, "head_dim": 16}),
    ],
    ids=str,
)
def test_values_that_were_set_stay_in_the_config_of_a_run(monkeypatch, tmp_path, asked, kept):
    config = configuration(monkeypatch, "--config", config_of_a_run(tmp_path, **asked), "--hidden_size", "256")
    assert config.model == ModelConfig(hidden_size=256, **kept)


def test_in_a_file_that_no_run_wrote_every_value_stays(monkeypatch, tmp_path):
    (tmp_path / "mine.toml").write_text("[model]\nhidden_size = 192\nnum_heads = 6\nnum_kv_heads = 6\n")
    config = configuration(monkeypatch, "--config", "mine.toml", "--hidden_size", "384")
    assert config.model == ModelConfig(hidden_size=384, num_heads=6, num_kv_heads=6, head_dim=64)


def test_every_field_set_in_a_file_reaches_the_configuration(monkeypatch, tmp_path):
    """Each in turn, with a value that is not its default."""
    other = {bool: lambda v: not v, int: lambda v: v * 2 + 2, float: lambda v: v / 2 + 0.1, tuple: lambda v: ["x"]}
    choices = {"pattern": "llama3", "windows": "stream", "precision": "bf16"}
    fields = {name: getattr(getattr(RunConfig(), table), name) for name, table in field_tables().items()}
    for name, default in fields.items():
        value = choices.get(name) or other.get(type(default), lambda v: "other")(default)
        written = json.dumps(value)
        (tmp_path / "one.toml").write_text(f"[{field_tables()[name]}]\n{name} = {written}\n")
        try:
            expected = RunConfig.from_toml("one.toml")
        except llamita.errors.UserError:
            continue  # a shape that does not fit alone
        assert configuration(monkeypatch, "--config", "one.toml") == expected, name
        assert expected != RunConfig(), name


def test_prepare_prints_its_folder_and_finds_it_finished_the_second_time(text, capsys):
    words = ["prepare", "--data_file", text, "--tokenizer_type", "char"]
    assert command(*words) == 0
    printed = capsys.readouterr().out
    folder = Path(re.findall(r"^folder +(.+)$", printed, re.MULTILINE)[0])
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir() if file.name != "tokenizer.json"}
    assert {"train.bin", "val.bin", "manifest.json"} <= {file.name for file in before}
    hashes = tree(folder)
    assert command(*words) == 0
    assert capsys.readouterr().out == printed
    assert tree(folder) == hashes
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_what_prepare_made_train_takes(text, cache):
    def prepared() -> set[Path]:
        return {file.parent for file in cache.rglob("train.bin")}

    assert command("prepare", "--data", text, "--tokenizer", "char") == 0
    folders = prepared()
    assert len(folders) == 1
    assert command(*train_words(text, Path("run"), max_steps=1)) == 0
    assert prepared() == folders


@pytest.mark.parametrize("options", [["--tokenizer", "char"], ["--vocab_size", "300"]], ids=str)
def test_a_trained_tokenizer_round_trips(text, capsys, options):
    assert command("tokenizer", "train", "--data", text, "--output_dir", "tok", *options) == 0
    assert "tok/tokenizer.json" in capsys.readouterr().out
    assert command("tokenizer", "encode", "the llama ran", "--tokenizer", "tok") == 0
    ids, pieces = capsys.readouterr().out.splitlines()
    assert pieces.replace("|", "") == "the llama ran"
    assert command("tokenizer", "decode", *ids.split(), "--tokenizer", "tok") == 0
    assert capsys.readouterr().out == "the llama ran\n"
    assert command(*train_words(text, Path("run"), tokenizer="tok", max_steps=1)) == 0
    assert tree(Path("run"))["tokenizer.json"] == tree(Path("tok"))["tokenizer.json"]


def test_tokenizer_train_learns_from_all_of_the_text_that_it_is_given(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a llama. " * 90 + "zebra " * 20)
    options = ["--data", "text.txt", "--output_dir", "tok", "--vocab_size", "300"]
    assert command("tokenizer", "train", *options) == 0
    assert len(load_tokenizer("tok").encode(" zebra")) == 1


def test_an_unknown_kind_of_tokenizer_is_named(text):
    with pytest.raises(llamita.errors.UserError, match="kind 'words' are not trained here; choose bpe or char"):
        train_tokenizer("words", text, vocab_size=300, pattern="gpt2")


def test_training_for_epochs_evaluating_and_generating_work_as_a_user_types_them(text, capsys):
    """The three commands, with smaller numbers; what is not named is found."""
    small = flags(**{**TINY, "eval_every": 50, "save_every": 50, "sample_every": 50, "max_steps": 0})
    assert command("train", "--data_file", text.name, "--epochs", "2", *small) == 0
    shape = ["--tokenizer_type", "char", "--block_size", "16", "--n_layer", "1", "--n_head", "2", "--n_embd", "16"]
    assert command("train", "--data_file", text.name, *shape, "--max_iters", "3", "--threads", "1") == 0
    assert len(runs_in(Path("runs"))) == 2
    assert command("eval") == 0
    capsys.readouterr()
    sampling = ["--temperature", "0.7", "--top_k", "5", "--top_p", "0.9", "--repetition_penalty", "1.1", "--seed", "3"]
    assert command("generate", "--prompt", "the llama", "--max_tokens", "20", *sampling) == 0
    assert capsys.readouterr().out.startswith("the llama")


def test_a_character_model_has_the_same_run_with_either_spelling_of_its_flags(text):
    assert command(*train_words(text, Path("a"), max_steps=3)) == 0
    spelled = {"tokenizer_type": "char", "n_embd": 16, "n_layers": 1, "n_heads": 2, "context_length": 16}
    rest = {name: value for name, value in TINY.items() if ALIASES_OF.get(name) not in spelled}
    assert command("train", *flags(**{**rest, **spelled, "max_steps": 3}, data_file=text, checkpoint_dir="b")) == 0
    assert last_checkpoint(Path("a")) == last_checkpoint(Path("b"))


ALIASES_OF = {"tokenizer": "tokenizer_type", "hidden_size": "n_embd", "num_layers": "n_layers", "num_heads": "n_heads"}
ALIASES_OF["max_seq_len"] = "context_length"


def test_piped_output_has_no_control_characters_and_ends_in_whole_lines(text, tmp_path, capfd):
    assert command(*train_words(text, tmp_path / "run", sample_every=6)) == 0
    assert command("eval", "--checkpoint", tmp_path / "run") == 0
    assert command("prepare", "--data", text, "--vocab_size", "300") == 0
    out, error = capfd.readouterr()
    assert not CONTROL_CHARACTERS.search(out)
    assert out.endswith("\n")
    assert not error


def test_a_closed_pipe_causes_no_traceback(text, tmp_path):
    line = " ".join(train_words(text, tmp_path / "run"))
    done = shell(f"llamita {line} | head -1; llamita generate --checkpoint run --max_tokens 2000 | head -c 1", tmp_path)
    assert done.stdout.startswith("run  ")
    said = [line for line in done.stderr.splitlines() if not line.startswith("compiling kernels")]
    assert said == []  # training has finished, so that there is a checkpoint


def test_the_last_lines_say_what_to_try_next(text, tmp_path, capsys):
    assert command(*train_words(text, tmp_path / "run")) == 0
    printed = capsys.readouterr().out
    assert f"llamita generate {tmp_path / 'run'}" in printed
    assert f"llamita eval {tmp_path / 'run'}" in printed
    assert re.search(r"unigram entropy \d\.\d+ nats/token, validation loss \d\.\d+\n$", printed)


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("llamita.tokenizer.load_tokenizer", interrupted)
    assert command("tokenizer", "encode", "words", "--tokenizer", "gpt2") == 130
    assert capsys.readouterr().err == "llamita: interrupted\n"
