"""The configuration resolved with the data: vocabulary, initialization, number of steps, learning rate."""

import math

from llamita.config import RunConfig, TrainingConfig, replace
from llamita.data import Dataset, note_on_documents, note_on_vocabulary, open_dataset
from llamita.errors import UserError
from llamita.parallel import Processes
from llamita.train.display import Display

DEFAULT_STEPS = 2000


def open_data(config: RunConfig, processes: Processes, display: Display) -> Dataset:
    """Tokenize the data that `config` names, or find it in the cache. Prints notes about it."""
    with processes.main_first():  # the others find its tokens in the cache
        data = open_dataset(config, display.progress)
    warnings = note_on_vocabulary(config, data.tokenizer), note_on_documents(data.prepared, data.tokenizer)
    for note in (*data.notes, *warnings):
        if note:
            display.say(note)
    return data


def resolve(config: RunConfig, data: Dataset) -> RunConfig:
    """`config` with the values that depend on the data: vocabulary size, initialization, number of steps.

    `replace` then derives the learning rate from the initialization, unless the user set it.
    """
    head_init = data.defaults.head_init if config.model.head_init == "auto" else config.model.head_init
    return replace(
        config,
        vocab_size=data.tokenizer.vocab_size,
        head_init=head_init,
        **_length(config.training, data),
    )


def _length(training: TrainingConfig, data: Dataset) -> dict[str, int]:
    """The setting of a fixed number of steps; none for a run with a budget, whose steps are planned later."""
    if training.minutes != "off":
        return {}
    from_epochs = math.ceil(training.epochs * len(data.train) / training.sequences_per_update)
    return {"max_steps": training.max_steps or from_epochs or DEFAULT_STEPS}


def require_enough_sequences(config: RunConfig, world_size: int) -> None:
    """Raise `UserError` if an update has fewer sequences than there are processes."""
    if config.training.sequences_per_update < world_size:
        raise UserError(
            f"batch_size {config.training.batch_size} x grad_accum_steps {config.training.grad_accum_steps} leaves "
            f"some of {world_size:,} processes without a sequence: raise --batch_size or lower --world_size"
        )
