"""`llamita tokenizer train | encode | decode`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from llamita.config import DataConfig, ModelConfig

app = App(name="tokenizer", help="Train a tokenizer, and look at what it does.")
Saved = Annotated[str, Parameter(help="gpt2, or a folder or file of a saved tokenizer; a run directory is one.")]


@app.command
def train(
    *,
    data: list[str],
    output_dir: Path,
    tokenizer: Literal["bpe", "char"] = "bpe",
    vocab_size: int = ModelConfig.vocab_size,
    pattern: Literal["gpt2", "cl100k", "llama3"] = "gpt2",
    text_field: str = DataConfig.text_field,
) -> None:
    """Train a tokenizer on all of the text files, and write its tokenizer.json.

    Parameters
    ----------
    data: list[str]
        Text files, folders of them, or patterns such as a/*.jsonl.
    output_dir: Path
        The folder to write to.
    tokenizer: Literal
        Byte-level BPE, or one token a character.
    vocab_size: int
        How many tokens a BPE tokenizer is to have.
    pattern: Literal
        How text is split into pieces before merging.
    text_field: str
        The field of .jsonl files that holds the text.
    """
    from llamita.corpus import TextFiles
    from llamita.tokenizer import train_tokenizer, vocabulary_note

    text = TextFiles(data, text_field=text_field)
    made = train_tokenizer(tokenizer, [text.pieces()], vocab_size=vocab_size, pattern=pattern)
    if note := vocabulary_note(tokenizer, vocab_size, made):
        print(note, file=sys.stderr)
    print(f"{made.vocab_size:,} tokens, written to {made.save(output_dir)}")


@app.command
def encode(text: str, *, tokenizer: Saved) -> None:
    """Print the ids of a text, and the piece of text each stands for."""
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
