"""`llamita prepare`."""

import sys
from contextlib import closing
from pathlib import Path

from llamita.cli.flags import DataFlags
from llamita.config import DataConfig, ModelConfig, RunConfig, TrainingConfig


def prepare(
    *,
    preset: str = "",
    config: Path | None = None,
    data: DataFlags = DataConfig(),  # noqa: B008  (frozen)
    vocab_size: int = ModelConfig.vocab_size,
    seed: int = TrainingConfig.seed,
    output_dir: Path | None = None,
) -> None:
    """Tokenize text into files that training maps into memory. `train` does it by itself on first use.

    Parameters
    ----------
    preset: str
        A named configuration, of those that `llamita presets` lists. --config and flags win over it.
    config: Path
        A TOML file, as for `train`.
    vocab_size: int
        How large a BPE tokenizer to train.
    seed: int
        Of the built-in stories.
    output_dir: Path
        A folder for the token files and their tokenizer, to train on with --data; default: one in the cache.
    """
    from llamita.data import note_on_documents, note_on_vocabulary, prepare_data
    from llamita.train import Display

    wanted = RunConfig(model=ModelConfig(vocab_size=vocab_size), data=data, training=TrainingConfig(seed=seed))
    with closing(Display()) as display:
        prepared, tokenizer, _ = prepare_data(wanted, display.progress, output_dir)
    for note in (note_on_vocabulary(wanted, tokenizer), note_on_documents(prepared, tokenizer)):
        if note:
            print(note, file=sys.stderr)
    print(f"source      {prepared.manifest.source}")
    print(f"tokenizer   {tokenizer.vocab_size:,} tokens")
    for name, part in prepared.manifest.parts.items():
        size = f"{part.tokens:,} tokens of {part.dtype}, {part.bytes:,} bytes of text, {part.documents:,} documents"
        print(f"{name:<11} {size}, {part.bytes / part.tokens:.2f} bytes per token")
    print(f"folder      {prepared.folder}")
