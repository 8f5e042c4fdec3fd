"""`llamita eval`."""

from pathlib import Path

from llamita.config import DataConfig


def evaluate(*, checkpoint: Path | None = None, cache_dir: str = DataConfig.cache_dir, device: str = "auto") -> None:
    """Score a model on the whole validation set of its run: loss, perplexity, bits per byte, distance to the floor.

    Parameters
    ----------
    checkpoint: Path
        A run (its best checkpoint), RUN/latest or RUN/step_00000500; default: the newest run in runs/.
    cache_dir: str
        Where prepared tokens are kept, if not where the run's configuration says.
    device: str
        auto, cpu, cuda or mps.
    """
    import time

    from llamita.config import ExecutionConfig, replace
    from llamita.data import open_dataset
    from llamita.errors import UserError
    from llamita.evaluate import evaluate_loss
    from llamita.train import Display, RunDirectory, choose_hardware, find_checkpoint, load_run

    found = find_checkpoint(checkpoint)
    model, tokenizer, config = load_run(found)
    display = Display()
    data = open_dataset(replace(config, cache_dir=cache_dir) if cache_dir else config, display.progress)
    display.close()
    facts = RunDirectory(found.parent).facts()
    if data.fingerprint != facts["data_fingerprint"]:
        raise UserError(f"{found.parent}: the text of this run has changed since ({config.data.data[0]}); restore it")
    hardware = choose_hardware(ExecutionConfig(device=device, precision="fp32"))
    started = time.perf_counter()
    scored = evaluate_loss(hardware.apply(model), data.validation, tokenizer.byte_lengths)
    seconds = time.perf_counter() - started
    print(f"checkpoint      {found}")
    print(f"loss            {scored.loss:.4f} nats/token, over {scored.targets:,} targets")
    print(f"perplexity      {scored.perplexity:.3f}")
    print(f"bits per byte   {scored.bits_per_byte:.4f}, over {scored.bytes:,} bytes")
    if data.floor is not None:
        print(f"loss floor      {data.floor:.4f}, the model is {scored.loss - data.floor:.4f} above it")
    print(f"speed           {scored.targets / seconds:,.0f} tokens/s ({hardware.device}, {hardware.precision})")
