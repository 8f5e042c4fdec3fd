"""Two real processes with gloo learn what one learns."""

import json
import os
import socket
from itertools import chain
from pathlib import Path

import pytest
import torch
from runs import cache, ended, forks, spy_on_gradients, text, tiny_config
from safetensors.torch import load_file, save_file

import llamita.train.loop
from llamita.config import RunConfig
from llamita.data import Batch
from llamita.parallel import Processes, processes_from_environment
from llamita.train import Display, train
from llamita.train.build import Run
from llamita.train.steps import next_batch

fixtures = (cache, text)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 6, 7, 31, 32])
def test_the_shares_of_all_processes_are_all_rows_once_and_as_even_as_it_goes(world_size, count):
    shares = [list(range(count))[Processes(rank, world_size).share(count)] for rank in range(world_size)]
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_torchrun_there_is_one_process_and_nothing_is_wrapped():
    with processes_from_environment() as processes:
        model = torch.nn.Linear(2, 2)
        assert (processes.rank, processes.world_size, processes.is_main) == (0, 1, True)
        assert processes.wrap(model) is model
        assert processes.sum(3) == 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def learn(config: RunConfig, rank: int, world_size: int, port: int, folder: Path) -> None:
    """One process of `world_size`."""
    place = {"RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    own = folder / f"run{rank}"  # each its own directory: only the main process will write
    config = RunConfig.from_tables({**config.tables(), "run": {**config.tables()["run"], "output_dir": str(own)}})
    with pytest.MonkeyPatch.context() as patch:
        seen = spy_on_gradients(patch)
        losses, targets = spy_on_losses(patch)
        train(config, Display(quiet=True))
    save_file({str(number): grad for number, grad in enumerate(chain(*seen))}, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps([losses, targets]))


def spy_on_losses(patch: pytest.MonkeyPatch) -> tuple[list[float], list[int]]:
    """From now on, the loss that this process finds for each update, and the number of targets of its own share."""
    losses, targets = [], []

    def batch_of(run: Run, step: int) -> Batch:
        assert run.processes.sum(run.processes.rank + 1) == sum(range(run.processes.world_size + 1))
        batch = next_batch(run, step)
        targets.append(batch.num_targets)
        return batch

    patch.setattr(llamita.train.loop, "next_batch", batch_of)
    patch.setattr(llamita.train.loop, "require_finite", lambda run, loss, norm: losses.append(loss))
    return losses, targets


def learned(config: RunConfig, world_size: int, folder: Path) -> list[tuple[dict[str, torch.Tensor], list]]:
    """What each of `world_size` processes found."""
    folder.mkdir()
    port = free_port()
    places = [(config, rank, world_size, port, folder) for rank in range(world_size)]
    processes = [forks.Process(target=learn, args=place) for place in places]
    for process in processes:
        process.start()
    assert [ended(process) for process in processes] == [0] * world_size
    found = [load_file(folder / f"{rank}.safetensors") for rank in range(world_size)]
    return [(tensors, json.loads((folder / f"{rank}.json").read_text())) for rank, tensors in enumerate(found)]


@pytest.mark.parametrize(
    "options",
    [
        {"windows": "stream", "batch_size": 8},
        {"windows": "document", "batch_size": 7, "max_seq_len": 64},
        {"windows": "document", "batch_size": 7, "max_seq_len": 64, "micro_batch_size": 2},
        {"windows": "document", "batch_size": 3, "max_seq_len": 64, "grad_accum_steps": 3},
    ],
    ids=str,
)
def test_two_processes_find_the_gradients_of_one_with_the_same_batch(text, tmp_path, monkeypatch, options):
    cached = {"cache_dir": os.environ["LLAMITA_CACHE"]}
    config = tiny_config(text, **options, **cached, max_steps=2, learning_rate=1e-9)  # next to nothing is learned
    ((expected, (losses, targets)),) = learned(config, 1, tmp_path / "one")
    two = learned(config, 2, tmp_path / "two")
    shares = [their_targets for _, (_, their_targets) in two]
    assert [sum(each) for each in zip(*shares, strict=True)] == targets
    assert options["windows"] == "stream" or shares[0] != shares[1]
    for gradients, (their_losses, _) in two:
        assert their_losses == pytest.approx(losses, abs=1e-6)
        assert gradients.keys() == expected.keys()
        assert all((gradients[name] - expected[name]).abs().max() <= 1e-6 for name in expected)
