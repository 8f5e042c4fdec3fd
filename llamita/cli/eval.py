"""`llamita eval`."""

import json
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from llamita.cli.flags import flat
from llamita.cli.loading import load_noting_code, named_run
from llamita.cli.prompts import check_prompt
from llamita.config import DataConfig, GenerationConfig, RunConfig
from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.corpus import Judge
    from llamita.data import Dataset
    from llamita.evaluate import PositionLosses
    from llamita.model import Llama

SHOWN = 300  # characters of a copied span
SAMPLING = flat("Sampling, with --generate", 1, consume_multiple=False)


def evaluate(
    run: str | None = None,
    /,
    *,
    checkpoint: Path | None = None,
    generate: list[str] | None = None,
    sample_count: int = 8,
    plot: bool = False,
    cache_dir: str = DataConfig.cache_dir,
    device: str = "auto",
    generation: Annotated[GenerationConfig, SAMPLING] = GenerationConfig(),  # noqa: B008
) -> None:
    """Evaluate a model on the whole validation set of its run: loss, perplexity, bits per byte, loss floor.

    Parameters
    ----------
    run: str
        A run (its best checkpoint), RUN/latest or RUN/step_00000500; default: the newest run in runs/.
    checkpoint: Path
        The run, as a flag.
    generate: list[str]
        Prompts to continue (none: a new document). Prints one continuation of each, and measures all of them: variety,
        repetition, spans copied from the training text.
    sample_count: int
        With --generate: continuations per prompt.
    plot: bool
        Plot the run, and the loss by position in the context, into RUN/plots/.
    cache_dir: str
        The folder of prepared tokens, if not that of the run's configuration.
    device: str
        auto, cpu, cuda or mps.
    """
    from llamita.config import ExecutionConfig
    from llamita.runtime import choose_hardware
    from llamita.train import RunDirectory

    if sample_count < 1:
        raise UserError(f"--sample_count is {sample_count}, but must be above 0")
    found, model, tokenizer, config = load_noting_code(named_run(run, checkpoint))
    prompts = [""] if generate == [] else list(dict.fromkeys(generate or []))  # duplicates would get the same text
    encoded = {prompt: check_prompt(prompt, tokenizer, config.model.max_seq_len) for prompt in prompts}
    directory = RunDirectory(found.path.parent)
    data = _open_data(config, cache_dir, directory.facts())
    hardware = choose_hardware(ExecutionConfig(device=device, precision="fp32"), model=config.model)
    model = hardware.apply(model)
    started = time.perf_counter()
    losses = _score(model, data)
    speed = losses.total.targets / (time.perf_counter() - started)
    print(f"checkpoint      {found.path}")
    _print_losses(losses, data.floor)
    print(f"speed           {speed:,.0f} tokens/s ({hardware.device}, {hardware.precision})")
    if encoded:
        _write_and_measure(model, data, encoded, sample_count, generation)
    if plot:
        from llamita.evaluate.plots import PlotData, write_plots

        plot_data = PlotData(directory.metrics.rows(), data.floor, losses)
        for path in write_plots(directory.path / "plots", plot_data, directory.path.name):
            print(f"plot            {path}")


def _open_data(config: RunConfig, cache_dir: str, facts: dict[str, Any]) -> "Dataset":
    """The data of the run, wherever they are now. A `cache_dir` is relative to here."""
    from llamita.config import replace
    from llamita.data import reopen_dataset
    from llamita.train import Display

    if cache_dir:
        config = replace(config, cache_dir=str(Path(cache_dir).resolve()))
    with closing(Display()) as display:
        return reopen_dataset(config, facts, display.progress)


def _score(model: "Llama", data: "Dataset") -> "PositionLosses":
    """The losses on all validation windows, with a progress bar on a terminal."""
    from llamita.evaluate import evaluate_positions
    from llamita.train import Display

    with closing(Display()) as display:
        progress = partial(display.progress, "scoring")
        return evaluate_positions(model, data.validation, data.tokenizer.byte_lengths, progress=progress)


def _print_losses(losses: "PositionLosses", floor: float | None) -> None:
    scored = losses.total
    print(f"loss            {scored.loss:.4f} nats/token, over {scored.targets:,} targets")
    print(f"perplexity      {scored.perplexity:.3f}")
    print(f"bits per byte   {scored.bits_per_byte:.4f}, over {scored.bytes:,} bytes")
    if floor is not None:
        print(f"loss floor      {floor:.4f}, the model is {scored.loss - floor:.4f} above it")
    groups = losses.by_doubling()
    spans = (f"{first}-{last}: {loss:.2f}" if first < last else f"{first}: {loss:.2f}" for first, last, loss in groups)
    print(f"by tokens seen  {'  '.join(spans)}")


def _write_and_measure(
    model: "Llama", data: "Dataset", prompts: dict[str, list[int]], count: int, generation: GenerationConfig
) -> None:
    """Print a continuation of each prompt (text: ids), and the measures over all of them (without the prompts)."""
    from llamita.evaluate import measure_writing
    from llamita.generate import generate_many, printable

    written = {text: generate_many(model, data.tokenizer, [ids] * count, generation) for text, ids in prompts.items()}
    for prompt, texts in written.items():
        print(f"\n{printable(prompt + texts[0])}")
    train_ids = data.prepared.train.ids  # memory-mapped, not read
    measured = measure_writing([text for texts in written.values() for text in texts], data.tokenizer, train_ids)
    one, two, three = measured.distinct
    copied = _short(printable(json.dumps(measured.copied_text, ensure_ascii=False)), SHOWN)
    print(f"\nwritten         {len(prompts) * count} continuations, {measured.words:,} words")
    print(f"distinct        {one:.1%} of words, {two:.1%} of pairs, {three:.1%} of triples")
    print(f"repetition      {measured.repetition:.1%} of sequences of four words, within a text")
    print(f"copied          at most {measured.copied_tokens:,} tokens in a row of the training text: {copied}")
    if data.judge:
        _print_verdicts(data.judge, written)


def _print_verdicts(judge: "Judge", written: dict[str, list[str]]) -> None:
    """Print how many continuations of each prompt the judge accepts, prompt included."""
    accepted = {prompt: sum(judge.accepts(prompt + text) for text in texts) for prompt, texts in written.items()}
    verdicts = (f"{n} of {len(written[p])} that begin {_short(repr(p), 40)}" for p, n in accepted.items())
    print(f"{judge.name:<15} accepts {', '.join(verdicts)}")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} …"
