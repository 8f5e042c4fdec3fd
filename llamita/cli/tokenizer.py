"""`llamita tokenizer train | encode | decode`."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from llamita.cli import examples
from llamita.config import DataConfig, ModelConfig, TrainingConfig

app = App(
    name="tokenizer",
    help="Train a tokenizer; encode and decode with it.",
    help_epilogue=examples.TOKENIZER,
)
Saved = Annotated[str, Parameter(help="gpt2, or a folder or file of a saved tokenizer; a run directory is one.")]


@app.command
def train(
    *,
    data: list[str],
    output_dir: Path,
    tokenizer: Literal["bpe", "char"] = "bpe",
    vocab_size: int = ModelConfig.vocab_size,
    pattern: Literal["gpt2", "cl100k", "llama3"] = "gpt2",
    max_documents: int = DataConfig.max_documents,
    data_revision: str = DataConfig.data_revision,
    text_field: str = DataConfig.text_field,
    encoding: str = DataConfig.encoding,
    errors: Literal["strict", "skip", "replace"] = DataConfig.errors,
) -> None:
    """Train a tokenizer on text files, and write its tokenizer.json.

    Parameters
    ----------
    data: list[str]
        Text files, folders of them, or patterns such as a/*.jsonl; or a corpus by name, as for `train`.
    output_dir: Path
        The folder to write to.
    tokenizer: Literal
        Byte-level BPE, or one token per character.
    vocab_size: int
        Size of a BPE vocabulary.
    pattern: Literal
        How text is split into pieces before merging, for BPE.
    max_documents: int
        Read at most this many documents; 0: all.
    data_revision: str
        The commit, branch or tag of a corpus from the hub.
    text_field: str
        The field of .jsonl files, or the column of .parquet files, that holds the text.
    encoding: str
        Of text files, such as latin-1; a byte order mark says more.
    errors: Literal
        Files that are not text in this encoding: strict refuses and lists them, skip leaves them out, replace reads
        what is not text as U+FFFD.
    """
    from llamita.corpus import open_source, separate_documents
    from llamita.tokenizer import train_tokenizer, vocabulary_note
    from llamita.train import Display

    options = DataConfig(
        data=tuple(data),
        data_revision=data_revision,
        max_documents=max_documents,
        text_field=text_field,
        encoding=encoding,
        errors=errors,
    )
    with closing(Display()) as display:
        source = open_source(options, TrainingConfig.seed, display.progress)
        documents = separate_documents(source.training.pieces())
        made = train_tokenizer(tokenizer, documents, vocab_size=vocab_size, pattern=pattern)
    for note in (*source.notes(), vocabulary_note(tokenizer, vocab_size, made)):
        if note:
            print(note, file=sys.stderr)
    print(f"{made.vocab_size:,} tokens, written to {made.save(output_dir)}")


@app.command
def encode(text: str, *, tokenizer: Saved) -> None:
    """Print the ids of a text, and the text of each."""
    from llamita.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    ids = loaded.encode(text)
    print(" ".join(map(str, ids)))
    print("|".join(loaded.decode([token]) for token in ids))


@app.command
def decode(ids: list[int], *, tokenizer: Saved) -> None:
    """Print the text of ids."""
    from llamita.tokenizer import load_tokenizer

    print(load_tokenizer(tokenizer).decode(ids))
