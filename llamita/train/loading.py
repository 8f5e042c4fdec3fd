"""A trained model from its directory."""

from pathlib import Path

from llamita.config import RunConfig
from llamita.errors import UserError
from llamita.model import Llama
from llamita.tokenizer import Tokenizer, load_tokenizer
from llamita.train.checkpoint import Checkpoint, load_verified
from llamita.train.run_directory import RunDirectory, find_verified


def load_run(path: str | Path | None = None, model_class: type[Llama] = Llama) -> tuple[Llama, Tokenizer, RunConfig]:
    """The model (on the CPU, in evaluation mode), tokenizer and configuration of a run or checkpoint.

    `path` as for `find_checkpoint`: a run means its best checkpoint, None the newest run;
    `model_class` as for `train`. Raises `UserError` if
    something is missing, damaged, or does not match.
    """
    return load_found(find_verified(path), model_class)


def load_found(checkpoint: Checkpoint, model_class: type[Llama] = Llama) -> tuple[Llama, Tokenizer, RunConfig]:
    """`load_run` of a checkpoint from `find_verified`, without hashing its files again."""
    run = RunDirectory(checkpoint.path.parent)
    config, tokenizer = run.config(), load_tokenizer(run.path)
    if tokenizer.fingerprint != run.facts().get("tokenizer_fingerprint"):
        raise UserError(f"{run.path}: tokenizer.json is not the one this model was trained with")
    model = model_class(config.model)
    load_verified(checkpoint, model)
    return model.eval(), tokenizer, config
