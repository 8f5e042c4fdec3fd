"""A user's mistake is one line on standard error and exit code 2, and nothing on disk is lost."""

import os
import signal
from pathlib import Path

import pytest
import torch
from runs import TINY, cache, command, ended, flags, refusal, rows, start, text, train_words, tree, write_text

fixtures = (cache, text)


def write_bytes(name: str, content: bytes) -> Path:
    Path(name).write_bytes(content)
    return Path(name)


@pytest.mark.parametrize("what", ["train", "prepare", "tokenizer train"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.txt", None),
        ("empty.txt", b""),
        ("blank.txt", b" \n\t\n "),
        ("latin.txt", "Es war einmal eine Köchin. ".encode("latin-1") * 50),
        ("binary.bin", bytes(range(256)) * 20),
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 20),
        ("cut.txt", "ein ganzer Satz und ein halbes é".encode()[:-1]),
    ],
)
def test_a_file_that_is_not_text_is_named(capsys, what, name, content):
    if content is not None:
        write_bytes(name, content)
    places = flags(output_dir="out") if what != "prepare" else []
    assert name in refusal(capsys, *what.split(), "--data", name, *places)
    assert not Path("out").exists()


@pytest.mark.parametrize("what", ["train", "prepare"])
def test_a_folder_in_place_of_a_file_is_named(tmp_path, capsys, what):
    (tmp_path / "folder").mkdir()
    assert "folder" in refusal(capsys, what, "--data", "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(text, capsys):
    text.chmod(0)
    assert text.name in refusal(capsys, "train", "--data", text)


def test_one_bad_file_among_good_ones_is_named(text, capsys):
    assert "empty.txt" in refusal(capsys, "train", "--data", text, write_bytes("empty.txt", b""))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("ab", "tokens, but one window needs 17"),
        ("x", "too short"),
        ("a llama. " * 3, "set --max_seq_len to"),
    ],
    ids=str,
)
def test_text_shorter_than_a_window_is_refused_with_a_context_that_fits(tmp_path, capsys, content, named):
    path = write_bytes("short.txt", content.encode())
    options = {"max_seq_len": 64} if len(content) > 10 else {}
    error = refusal(capsys, *train_words(path, tmp_path / "run", **options))
    assert named in error or (named == "tokens, but one window needs 17" and "one window needs" in error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hidden_size": 18, "num_heads": 4}, "hidden_size 18 is not divisible by num_heads 4"),
        ({"hidden_size": 18, "num_heads": 6}, "head_dim 3"),
        ({"num_heads": -1}, "num_heads"),
        ({"num_heads": 8, "num_kv_heads": 3}, "num_kv_heads 3"),
        ({"max_seq_len": 0}, "max_seq_len is 0"),
        ({"hidden_size": -16}, "hidden_size"),
        ({"num_layers": -1}, "num_layers is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"learning_rate": "nan"}, "learning_rate is nan"),
        ({"min_learning_rate": 1}, "min_learning_rate 1.0 is above learning_rate"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"grad_accum_steps": -2}, "grad_accum_steps is -2"),
        ({"micro_batch_size": -1}, "micro_batch_size is -1"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"epochs": "inf"}, "epochs is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"log_every": 0}, "log_every is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"grad_clip": -0.5}, "grad_clip is -0.5"),
        ({"batch_size": "many"}, "--batch_size"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"tokenizer": "bpe", "vocab_size": 100}, "vocab_size 100"),
        ({"device": "banana"}, "--device banana is unknown"),
        ({"device": "meta"}, "--device meta is unknown: choose auto, cpu, cuda, a specific GPU such as cuda:1, or mps"),
        ({"device": "cuda:"}, "--device cuda: is unknown"),
        ({"device": ""}, "--device"),
        ({"device": "cuda:99"}, "--device cuda:99"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_named(text, tmp_path, capsys, options, named):
    error = refusal(capsys, *train_words(text, tmp_path / "run", **options))
    assert named in error
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
@pytest.mark.parametrize("what", ["generate", "eval"])
def test_a_device_that_is_not_here_is_named(text, tmp_path, capsys, what):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    assert "--device cuda" in refusal(capsys, what, "--checkpoint", tmp_path / "run", "--device", "cuda")


@pytest.mark.parametrize("what", ["generate", "eval"])
def test_before_any_run_the_message_says_what_to_do(capsys, what):
    assert "train one with `llamita train`" in refusal(capsys, what)


@pytest.mark.parametrize("what", ["generate", "eval"])
@pytest.mark.parametrize("name", ["nowhere", "run/step_00000099", "nowhere/best", "nowhere/latest", "text.txt", "."])
def test_something_that_is_no_checkpoint_is_named(text, tmp_path, capsys, what, name):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    assert name.split("/")[0] in refusal(capsys, what, "--checkpoint", name)


@pytest.mark.parametrize("what", ["generate", "eval"])
def test_a_run_without_a_checkpoint_yet_says_so(text, tmp_path, capsys, what):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    for file in (tmp_path / "run" / "step_00000001").iterdir():
        file.unlink()
    (tmp_path / "run" / "step_00000001").rmdir()
    for name in ("run", "run/latest", "run/best"):
        assert "no checkpoint yet" in refusal(capsys, what, "--checkpoint", name)


def test_a_run_directory_that_is_a_file_is_named_and_kept(text, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert "taken: cannot be used as a run directory" in refusal(capsys, *train_words(text, tmp_path / "taken"))
    assert (tmp_path / "taken").read_text() == "mine"


def test_what_else_lies_in_a_run_directory_is_left_alone(text, tmp_path):
    for name in ("step_by_step", "step_by_2", ".step_by_step"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert command(*train_words(text, tmp_path / "run")) == 0
    assert all((tmp_path / "run" / name).exists() for name in ("step_by_step", "step_by_2", ".step_by_step"))
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_two_concurrent_trainings_in_one_directory_are_refused(text, tmp_path, capsys):
    words = train_words(text, tmp_path / "run", max_steps=100_000, save_every=100_000)
    process = start(words, tmp_path)
    try:
        while process.is_alive() and not (tmp_path / "run" / "metrics.jsonl").exists():
            process.join(0.01)
        assert "another process is training this run" in refusal(capsys, *words)
        assert process.is_alive()
    finally:
        process.kill()
    assert ended(process) == -signal.SIGKILL
    assert command(*train_words(text, tmp_path / "run2", max_steps=1)) == 0


def test_after_a_killed_training_its_directory_is_free_again(text, tmp_path):
    words = train_words(text, tmp_path / "run")
    process = start(words, tmp_path)
    process.join(0.5)
    process.kill()
    ended(process)
    assert command(*words) == 0
    assert rows(tmp_path / "run")[-1]["step"] == 12


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--temperature", "-1"], "temperature is -1"),
        (["--top_p", "0"], "top_p is 0"),
        (["--top_p", "1.5"], "top_p is 1.5"),
        (["--top_k", "-3"], "top_k is -3"),
        (["--max_tokens", "0"], "--max_tokens is 0"),
        (["--repetition_penalty", "0"], "repetition_penalty is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--max_tokens", "lots"], "--max_tokens"),
    ],
    ids=str,
)
def test_a_sampling_setting_out_of_range_is_named(capsys, words, named):
    assert named in refusal(capsys, "generate", *words)


def test_a_prompt_that_is_not_text_is_refused(text, tmp_path, capsys):
    """Bytes on the command line that are not UTF-8 arrive as surrogates."""
    assert command(*train_words(text, tmp_path / "run", tokenizer="bpe", vocab_size=300, max_steps=1)) == 0
    assert "prompt" in refusal(capsys, "generate", "the \udcff", "--checkpoint", tmp_path / "run")


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_tokenizer_commands_name_what_is_wrong(tmp_path, capsys, what):
    word = "text" if what == "encode" else "3"
    assert "nowhere" in refusal(capsys, "tokenizer", what, word, "--tokenizer", "nowhere")
    write_bytes("tokenizer.json", b"{}")
    assert "tokenizer.json" in refusal(capsys, "tokenizer", what, word, "--tokenizer", "tokenizer.json")


def test_an_id_without_a_token_is_named(text, capsys):
    assert command("tokenizer", "train", "--data", text, "--output_dir", "tok", "--tokenizer", "char") == 0
    assert "999" in refusal(capsys, "tokenizer", "decode", "999", "--tokenizer", "tok")
    assert "-1" in refusal(capsys, "tokenizer", "decode", "--tokenizer", "tok", "--ids", "-1")


def test_a_mistake_leaves_an_earlier_run_untouched(text, tmp_path, capsys):
    run = tmp_path / "run"
    assert command(*train_words(text, run)) == 0
    before = tree(run)
    mistakes = [{"device": "banana"}, {"hidden_size": 17}, {"data": "nowhere.txt"}, {"tokenizer": "nowhere"}]
    for mistake in mistakes:
        refusal(capsys, *train_words(**{"data": text, "output_dir": run, **mistake}))
    assert tree(run) == before


def test_a_cache_that_cannot_be_written_is_named(text, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    words = ["train", *flags(**TINY, data=text, output_dir="run", cache_dir="taken")]
    assert "taken" in refusal(capsys, *words)


def test_damaged_token_files_are_reported_with_what_to_do(text, tmp_path, cache, capsys):
    assert command(*train_words(text, tmp_path / "run", max_steps=1)) == 0
    (file,) = cache.glob("*/train.bin")
    os.truncate(file, 10)
    error = refusal(capsys, *train_words(text, tmp_path / "run", max_steps=1))
    assert "delete the folder" in error
    write_text(text)  # the text itself is as it was


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--tie_embeddings", "False"], "--no-tie_embeddings off"),
        (["train", "--tie-weights", "true"], "--tie-weights is on, --no-tie-weights off"),
        (["train", "--no-qk_norm", "yes"], "--no-qk_norm off"),
        (["train", "a.txt"], "unexpected argument 'a.txt': name texts with --data"),
        (["prepare", "a.txt", "b.txt"], "unexpected argument 'a.txt': name texts with --data"),
        (["eval", "my_run"], "my_run: no such run or checkpoint"),
        (["generate", "Once", "upon"], "in quotes"),
        (["presets", "all"], "llamita presets --help"),
    ],
)
def test_an_unexpected_argument_is_reported_with_the_flag_that_was_probably_meant(capsys, words, named):
    assert named in refusal(capsys, *words)
