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
    output_dir: Path | None = None,
    vocab_size: int = ModelConfig.vocab_size,
    seed: int = TrainingConfig.seed,
    data: DataFlags = DataConfig(),  # noqa: B008  (frozen)
) -> None:
    """Tokenize text into files that training memory-maps. `train` does this by itself on first use.

    Parameters
    ----------
    preset: str
        A named configuration: `llamita presets` lists them. --config and flags override it.
    config: Path
        A TOML file, as for `train`.
    output_dir: Path
        A folder for the token files and their tokenizer, to train on with --data; default: one in the cache.
    vocab_size: int
        Size of the BPE tokenizer to train.
    seed: int
        Seed of the built-in stories.
    """
    from llamita.data import note_on_documents, note_on_vocabulary, prepare_data
    from llamita.train import Display

    requested = RunConfig(model=ModelConfig(vocab_size=vocab_size), data=data, training=TrainingConfig(seed=seed))
    with closing(Display()) as display:
        prepared, tokenizer, source = prepare_data(requested, display.progress, output_dir)
    warnings = note_on_vocabulary(requested, tokenizer), note_on_documents(prepared, tokenizer)
    for note in (*(source.notes() if source else ()), *warnings):
        if note:
            print(note, file=sys.stderr)
    print(f"source      {prepared.manifest.source}")
    print(f"tokenizer   {tokenizer.vocab_size:,} tokens")
    for name, part in prepared.manifest.parts.items():
        size = f"{part.tokens:,} tokens of {part.dtype}, {part.bytes:,} bytes of text, {part.documents:,} documents"
        print(f"{name:<11} {size}, {part.bytes / part.tokens:.2f} bytes per token")
    print(f"folder      {prepared.folder}")
