"""`llamita prepare` makes a folder that `llamita train` takes as it is; sources, validation files and limits."""

import functools
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from runs import TINY, cache, command, flags, refusal, rows, runs_in, text, train_words, tree, write_text

from llamita.config import RunConfig, replace
from llamita.corpus import DocumentList, TextFiles
from llamita.data import TokenFile, open_dataset, prepare, prepare_data
from llamita.data.learning import training_part
from llamita.data.manifest import Manifest
from llamita.data.splitting import Extent
from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, load_tokenizer
from llamita.train import RunDirectory

fixtures = (cache, text)
PREPARED = ["manifest.json", "tokenizer.json", "train.bin", "train.documents.bin", "val.bin", "val.documents.bin"]


def write_rows(path: Path, seed: int, field: str = "text") -> Path:
    """The documents of `write_text` as JSON lines."""
    documents = write_text(path.with_suffix(".tmp"), seed=seed).read_text().split(f"\n{END_OF_TEXT}\n")
    path.write_text("".join(json.dumps({field: document}) + "\n" for document in documents))
    return path


def prepare_words(*data, **options) -> list:
    return ["prepare", "--data", *data, *flags(**{"vocab_size": 300, **options})]


def train_on(folder: Path, run: Path, **options) -> list[str]:
    """The command line of a tiny run on a prepared folder, whose tokenizer is its own."""
    tiny = {name: value for name, value in TINY.items() if name != "tokenizer"}
    return ["train", *flags(data=folder, output_dir=run, **{**tiny, **options})]


# --- the folder ---


def test_prepare_writes_a_folder_that_train_accepts(text, tmp_path, capsys):
    more = write_rows(tmp_path / "b.jsonl", seed=1)
    assert command(*prepare_words(text, more, output_dir=tmp_path / "data" / "mine")) == 0
    folder = tmp_path / "data" / "mine"
    assert sorted(path.name for path in folder.iterdir()) == PREPARED
    assert list((tmp_path / "data").iterdir()) == [folder]
    assert "folder      " in capsys.readouterr().out
    text.unlink()  # the text itself is not needed any more
    more.unlink()
    run = tmp_path / "run"
    assert command(*train_on(folder, run)) == 0
    assert rows(run)[-1]["step"] == 12
    assert load_tokenizer(run).fingerprint == load_tokenizer(folder).fingerprint
    assert RunDirectory(run).config().model.vocab_size == load_tokenizer(folder).vocab_size == 300
    for words in (["eval", "--checkpoint", run], train_on(folder, run), ["train", "--config", run / "config.toml"]):
        assert command(*words) == 0


def test_training_on_the_folder_equals_training_on_the_text(text, tmp_path):
    folder = tmp_path / "mine"
    assert command(*prepare_words(text, tokenizer="char", output_dir=folder)) == 0
    assert command(*train_words(text, tmp_path / "one")) == 0
    assert command(*train_on(folder, tmp_path / "two")) == 0
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert (
        RunDirectory(tmp_path / "one").facts()["data_fingerprint"]
        == (RunDirectory(tmp_path / "two").facts()["data_fingerprint"])
    )


def test_preparing_again_finds_the_folder_and_other_text_is_refused(text, tmp_path, capsys):
    words = prepare_words(text, output_dir=tmp_path / "mine")
    assert command(*words) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()}
    assert command(*words) == 0
    other = write_text(tmp_path / "other.txt", seed=3)
    for changed in (prepare_words(other, output_dir="mine"), prepare_words(text, output_dir="mine", vocab_size=290)):
        assert "mine: holds tokens of other text" in refusal(capsys, *changed)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").iterdir()} == before


def test_an_output_directory_with_other_files_is_refused_and_left_alone(text, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "file"):
        refused = refusal(capsys, *prepare_words(text, output_dir=tmp_path / name))
        assert "is not an empty folder; choose another --output_dir" in refused
    assert (tmp_path / "folder" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert command(*prepare_words(text, output_dir=tmp_path / "empty")) == 0


def test_output_dir_in_a_file_is_that_of_the_run_not_of_the_tokens(text, tmp_path):
    (tmp_path / "my.toml").write_text('[data]\ndata = "text.txt"\n[model]\nvocab_size = 300\n[run]\noutput_dir = "run"')
    assert command("prepare", "--config", "my.toml") == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tokenizer": "char"}, "prepared with another tokenizer than char"),
        ({"tokenizer": "other"}, "prepared with another tokenizer than other"),
        ({"max_documents": 3}, "is prepared already, --max_documents comes too late"),
        ({"max_corpus_tokens": 30}, "--max_corpus_tokens comes too late"),
        ({"val_data": "text.txt"}, "--val_data comes too late"),
        ({"text_field": "story"}, "--text_field comes too late"),
        ({"documents": "line"}, "--documents comes too late"),
        ({"encoding": "latin-1"}, "--encoding comes too late"),
        ({"errors": "skip"}, "--errors comes too late"),
        ({"pattern": "llama3"}, "--pattern is llama3, but the tokenizer already splits text by gpt2"),
    ],
    ids=str,
)
def test_settings_that_a_prepared_folder_cannot_follow_are_named(text, tmp_path, capsys, options, named):
    assert command(*prepare_words(text, output_dir="mine")) == 0
    CharTokenizer("abc").save("other")
    assert named in refusal(capsys, *train_on(Path("mine"), tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_a_prepared_folder_accepts_the_name_of_its_own_tokenizer(text, tmp_path):
    assert command(*prepare_words(text, output_dir="mine")) == 0
    assert command(*train_on(Path("mine"), tmp_path / "run", tokenizer="mine")) == 0


def test_an_incomplete_prepared_folder_is_refused_in_one_line(text, tmp_path, capsys):
    for name, named in {
        "manifest.json": "manifest.json: cannot be read",
        "tokenizer.json": "mine: no tokenizer",
    }.items():
        assert command(*prepare_words(text, output_dir="mine")) == 0
        (tmp_path / "mine" / name).unlink()
        assert named in refusal(capsys, *train_on(Path("mine"), tmp_path / "run"))
        for path in (tmp_path / "mine").iterdir():
            path.unlink()
    assert command(*prepare_words(text, output_dir="mine")) == 0
    CharTokenizer("abc").save("mine")
    assert "did not make the tokens" in refusal(capsys, *train_on(Path("mine"), tmp_path / "run"))


def test_prepared_tokens_are_neither_mixed_with_text_nor_prepared_again(text, tmp_path, capsys):
    assert command(*prepare_words(text, output_dir="mine")) == 0
    assert "give it alone as --data" in refusal(capsys, *prepare_words("mine", text))
    assert "give it alone as --data" in refusal(capsys, *prepare_words(text, val_data="mine"))
    assert "is prepared already; train with --data mine" in refusal(capsys, *prepare_words("mine", output_dir="other"))


# --- sources from the command line ---


def test_every_kind_of_source_is_trained_on(tmp_path):
    folder = tmp_path / "my_folder"
    (folder / "deep").mkdir(parents=True)
    write_text(folder / "a.txt", seed=1)
    write_rows(folder / "deep" / "b.jsonl", seed=2, field="story")
    (folder / "deep" / "c.txt.gz").write_bytes(gzip.compress(write_text(tmp_path / "c.txt", seed=3).read_bytes()))
    for data in (folder, folder / "**" / "*.*", folder / "deep" / "b.jsonl"):
        assert command(*train_words(data, tmp_path / "run" / data.name, text_field="story", max_steps=1)) == 0
    parts = Manifest.read(prepare_data(config(folder, text_field="story"))[0].folder).parts
    assert (parts["train"].documents, parts["val"].documents) == (162, 18)


def config(data: Path, **options) -> RunConfig:
    return replace(RunConfig(), data=(str(data),), tokenizer="char", **options)


def test_a_run_on_a_folder_or_a_pattern_is_named_after_it(tmp_path, monkeypatch):
    (tmp_path / "my_folder").mkdir()
    write_text(tmp_path / "my_folder" / "a.txt")
    for name in ("my_folder", "my_folder/", "my_folder/*.txt"):
        options = {**TINY, "max_steps": 1}
        assert command("train", *flags(data=name, **options)) == 0
    (run,) = runs_in(tmp_path / "runs")
    assert run.name.startswith("my_folder-")


@pytest.mark.parametrize("what", ["train", "prepare", "tokenizer train"])
@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("empty/", None, "empty: no text in this folder, it is empty"),
        ("*.txt", None, "*.txt: no file matches"),
        ("table.parquet", b"PAR1", "table.parquet: not a readable Parquet file"),
        ("rows.jsonl", b'{"text": "good"}\n{"story": 1}\n', "rows.jsonl, line 2: no field 'text'"),
        ("rows.jsonl", b"once upon a time\n", "rows.jsonl, line 1: not JSON"),
        ("text.txt.gz", b"once upon a time\n", "text.txt.gz: broken gzip file"),
        ("text.txt.gz", gzip.compress(b"once upon a time" * 99, mtime=0)[:-9], "text.txt.gz: broken gzip file"),
        ("text.txt.gz", gzip.compress(b"once\0upon", mtime=0), "text.txt.gz: not a text file: NUL byte at byte 4"),
    ],
)
def test_an_invalid_source_is_refused_in_one_line(tmp_path, capsys, what, name, content, named):
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    places = ["--output_dir", "out"] if what != "prepare" else []
    assert named in refusal(capsys, *what.split(), "--data", name, *places)
    assert not Path("out").exists()


def test_text_field_selects_another_field(tmp_path, capsys):
    path = write_rows(tmp_path / "rows.jsonl", seed=1, field="story")
    assert "no field 'text', only 'story'; name the text's with --text_field" in refusal(capsys, *prepare_words(path))
    assert command(*prepare_words(path, text_field="story")) == 0
    assert command(*["tokenizer", "train", "--data", path, "--text_field", "story", "--output_dir", "tok"]) == 0


# --- validation files ---


def test_validation_files_are_validated_on_and_all_of_data_is_trained_on(text, tmp_path, capsys):
    other = write_rows(tmp_path / "val.jsonl", seed=5)
    prepared, _, _ = prepare_data(config(text, val_data=(str(other),)))
    assert (prepared.train.part.documents, prepared.validation.part.documents) == (60, 60)
    assert prepared.manifest.validation == "val.jsonl (4.0 KB)"
    assert prepared.train.part.bytes == sum(len(document) for document in TextFiles(text).documents())
    assert command(*train_words(text, tmp_path / "run", val_data=other)) == 0
    assert "missing.txt: no such file" in refusal(capsys, *prepare_words(text, val_data="missing.txt"))
    assert "--val_data: the built-in stories have validation stories" in refusal(capsys, "prepare", "--val_data", other)


def test_tokenizers_with_and_without_validation_files_are_cached_separately(text, tmp_path):
    other = tmp_path / "val.txt"
    other.write_text("xyz & xyz")
    characters = [prepare_data(config(text, val_data=names))[1].vocab_size for names in ((), (str(other),))]
    assert characters[1] > characters[0]


# --- limits ---


def test_max_documents_limits_the_prepared_documents(text, tmp_path):
    prepared, _, _ = prepare_data(config(text, max_documents=20))
    assert (prepared.train.part.documents, prepared.validation.part.documents) == (18, 2)
    assert prepared.folder != prepare_data(config(text))[0].folder
    assert command(*train_words(text, tmp_path / "run", max_documents=20)) == 0


def test_max_documents_limits_the_stories():
    prepared, _, source = prepare_data(replace(RunConfig(), tokenizer="char", max_documents=40))
    assert (prepared.train.part.documents, prepared.validation.part.documents) == (40, 500)
    assert source
    assert source.floor_nats is not None


@pytest.mark.parametrize("limit", [2, 10, 50, 1000, 2999, 10**9])
def test_max_corpus_tokens_cuts_both_parts_in_proportion(tmp_path, limit):
    documents = [f"document {number} of thirty " * (number % 5 + 1) for number in range(30)]
    tokenizer, corpus = CharTokenizer("".join(documents)), DocumentList(documents, "thirty")
    whole = prepare(corpus, tokenizer, tmp_path)
    cut = prepare(corpus, tokenizer, tmp_path, max_tokens=limit)
    validation = max(round(limit / 10), 1)
    for part, uncut, most in (
        (cut.train, whole.train, limit - validation),
        (cut.validation, whole.validation, validation),
    ):
        np.testing.assert_array_equal(part.ids, uncut.ids[:most])
        starts = [start for start in uncut.document_starts if start < len(part.ids)]
        assert part.document_starts.tolist() == starts
        assert part.document_ends[-1] == len(part) == part.part.tokens
        assert part.part.bytes == tokenizer.byte_lengths[part.ids].sum()
        part.verify()
    assert (cut.folder == whole.folder) is False


def test_validation_files_are_not_cut(tmp_path):
    corpus, other = DocumentList(["one"] * 9, "training"), DocumentList(["two"] * 9, "validation")
    tokenizer = CharTokenizer("onetw")
    prepared = prepare(corpus, tokenizer, tmp_path, validation_corpus=other, max_tokens=5)
    assert (len(prepared.train), len(prepared.validation)) == (5, 36)


def test_too_few_tokens_to_split_are_refused(text, capsys):
    assert "max_corpus_tokens is 1, too few" in refusal(capsys, *prepare_words(text, max_corpus_tokens=1))
    for name in ("max_corpus_tokens", "max_documents"):
        assert f"{name} is -1" in refusal(capsys, *prepare_words(text, **{name: -1}))


def test_merges_are_learned_from_an_even_sample_of_much_text(tmp_path):
    corpus = DocumentList([f"{number:04}" * 5 for number in range(1000)], "numbers")  # 20 characters each
    part = functools.partial(training_part, corpus=corpus, extent=Extent(1000, 20_000), is_all_for_training=False)
    everything = list(part(corpus.pieces()))
    assert list(part(corpus.pieces(), max_characters=10**6)) == everything
    sample = [piece for piece in part(corpus.pieces(), max_characters=2000) if piece is not None]
    assert len(sample) == 90  # a tenth of the 900 for training
    assert [int(piece[:4]) // 100 for piece in sample] == sorted(list(range(9)) * 10)


# --- a vocabulary that the text does not support ---


def test_a_vocabulary_larger_than_the_text_supports_is_a_warning_with_its_size(text, tmp_path, capsys):
    line = r"warning: the text has nothing to merge beyond {0} tokens: vocab_size is {0}, not 32,000"
    assert command(*prepare_words(text, vocab_size=32_000, output_dir="mine")) == 0
    got = f"{load_tokenizer('mine').vocab_size:,}"
    captured = capsys.readouterr()
    assert captured.err == line.format(got) + "\n"
    assert f"{got} tokens" in captured.out
    run = tmp_path / "run"
    assert command(*train_words(text, run, tokenizer="bpe", vocab_size=32_000, max_steps=1)) == 0
    assert line.format(got) in capsys.readouterr().out
    assert RunDirectory(run).config().model.vocab_size == load_tokenizer("mine").vocab_size
    assert command("tokenizer", "train", "--data", text, "--vocab_size", "32000", "--output_dir", "tok") == 0
    assert "warning: the text has nothing to merge beyond" in capsys.readouterr().err
    for words in (
        prepare_words(text),
        prepare_words(text, tokenizer="char"),
        train_on(Path("mine"), tmp_path / "run2"),
    ):
        assert command(*words) == 0
        captured = capsys.readouterr()
        assert "nothing to merge" not in captured.out + captured.err


def test_another_vocabulary_than_the_tokenizer_has_is_a_warning_with_both_sizes(text, tmp_path, capsys):
    assert command(*prepare_words(text, tokenizer="char", vocab_size=300, output_dir="mine")) == 0
    got = load_tokenizer("mine").vocab_size
    assert capsys.readouterr().err == f"warning: vocab_size is {got}, that of the tokenizer char, not 300\n"
    assert command(*train_on(Path("mine"), tmp_path / "run", vocab_size=300)) == 0
    assert f"warning: vocab_size is {got}, that of mine, not 300\n" in capsys.readouterr().out
    assert command(*train_on(Path("mine"), tmp_path / "run2", vocab_size=got)) == 0
    assert "warning" not in capsys.readouterr().out


def test_a_failed_preparation_leaves_the_disk_as_it_was(text, tmp_path, capsys):
    assert command(*prepare_words(text, output_dir="mine")) == 0
    before = tree(tmp_path / "mine")
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{')
    assert "line 2" in refusal(capsys, *prepare_words(text, "bad.jsonl", output_dir="mine"))
    assert tree(tmp_path / "mine") == before
    with pytest.raises(UserError):
        open_dataset(config(tmp_path / "mine", max_seq_len=100_000))
    TokenFile(tmp_path / "mine" / "train.bin").verify()


def test_a_tokenizer_without_an_end_token_is_a_warning(tmp_path, capsys):
    BPETokenizer({byte: bytes([byte]) for byte in range(256)}, []).save(tmp_path / "bytes")
    write_text(tmp_path / "many.txt")
    (tmp_path / "one.txt").write_text("once upon a time")
    for name, said in {"many": True, "one": False}.items():
        words = ["--data", tmp_path / f"{name}.txt", "--tokenizer", tmp_path / "bytes", "--vocab_size", 256]
        assert command("prepare", *words) == 0
        error = capsys.readouterr().err
        assert error.count("the tokenizer has no <|endoftext|>") == said
        assert error.count("\n") == said
