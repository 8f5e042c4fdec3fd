"""Checkpoints: a folder of safetensors and a manifest, complete or absent, never partial.

step_00000500/
    model.safetensors        the parameters by name; a tied head is saved once
    optimizer.safetensors    <parameter>.exp_avg and so on
    manifest.json            format, step, sha256 of each file and of the manifest itself, and extra values
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from llamita.errors import UserError
from llamita.files import sync

FORMAT_VERSION = 1
MODEL_FILE, OPTIMIZER_FILE, MANIFEST_FILE = "model.safetensors", "optimizer.safetensors", "manifest.json"
REPLACED = ".replaced"


class Checkpoint(NamedTuple):
    """A checkpoint whose files were all verified, and its manifest."""

    path: Path
    manifest: dict[str, Any]


def save_checkpoint(path: str | Path, model: nn.Module, optimizer: Optimizer | None, step: int, **extra: Any) -> Path:
    """Write the folder `path` atomically: to a temporary folder first, synced to disk, then renamed. Replaces `path`.

    `extra`: more JSON values for the manifest. Raises `UserError` if the disk is full or not writable.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        restore(path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_model_tensors(model), partial / MODEL_FILE)
        if optimizer is not None:
            save_file(_optimizer_tensors(model, optimizer), partial / OPTIMIZER_FILE)
        _write_manifest(partial, {"format_version": FORMAT_VERSION, "step": step, "torch": torch.__version__, **extra})
        _set_modes(partial)
        _replace(partial, path)
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and "I/O error" not in str(error):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        restore(path)
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: the checkpoint could not be written ({reason}); older ones are kept") from None
    return path


def load_checkpoint(path: str | Path, model: nn.Module, optimizer: Optimizer | None = None) -> int:
    """Load the folder `path` into `model` and `optimizer`, in place -> the step it was saved at.

    Raises `UserError` if it is missing or damaged, or if the shapes differ.
    """
    return load_verified(verify(Path(path)), model, optimizer)


def load_verified(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer | None = None) -> int:
    """`load_checkpoint` of a checkpoint from `verify`, without hashing the files again."""
    path, manifest = checkpoint
    _load_model(path / MODEL_FILE, model)
    if optimizer is not None:
        if OPTIMIZER_FILE not in manifest["files"]:
            raise UserError(f"{path}: has no optimizer state, only a model: load it without an optimizer")
        _load_optimizer(path / OPTIMIZER_FILE, model, optimizer)
    return manifest["step"]


def verify(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`, or the one that was about to be replaced there when the process was killed.

    Raises `UserError` if it is missing or damaged.
    """
    folder = path if path.exists() or not _aside(path).exists() else _aside(path)
    return Checkpoint(folder, _read_manifest(folder))


def restore(path: Path) -> None:
    """Rename the checkpoint `path` back if the process was killed while it replaced it.

    Only for the process that holds the lock of the run: this interferes with a replacement in progress.
    """
    if _aside(path).exists() and not path.exists():
        _aside(path).rename(path)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after checking every file against it."""
    try:
        content = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        own = content.pop("sha256")
        damaged = None if own == _digest(content) else MANIFEST_FILE
        for name, sha256 in content["files"].items():
            damaged = damaged or (None if _file_digest(path / name) == sha256 else name)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not a complete checkpoint, {Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path}: damaged checkpoint, {MANIFEST_FILE} cannot be read") from None
    if damaged:
        raise UserError(f"{path}: damaged checkpoint, {damaged} is not what was saved; use another one")
    if content["format_version"] != FORMAT_VERSION:
        raise UserError(f"{path}: format {content['format_version']} is not known to this version of llamita")
    return content


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    # named_parameters lists a shared tensor once, so a tied head is left out, as in Hugging Face checkpoints.
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """State by parameter name, independent of the order of parameter groups and of sharding."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.{kind}"] = value.cpu().contiguous() if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def _load_model(file: Path, model: nn.Module) -> None:
    tensors = load_file(file)
    parameters = dict(model.named_parameters())
    if {name: t.shape for name, t in tensors.items()} != {name: p.shape for name, p in parameters.items()}:
        raise UserError(f"{file}: the model there has other shapes: {_first_difference(tensors, parameters)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            # Copied into memory that torch allocated: safetensors aligns to 4 bytes, which changes how sums round.
            parameter.copy_(tensors[name])


def _first_difference(tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> str:
    for name in sorted(tensors.keys() | parameters.keys()):
        saved, expected = tensors.get(name), parameters.get(name)
        if saved is None or expected is None or saved.shape != expected.shape:
            shapes = [None if t is None else tuple(t.shape) for t in (saved, expected)]
            return f"{name} is {shapes[0] or 'absent'} there and {shapes[1] or 'absent'} here"
    return "no difference"


def _load_optimizer(file: Path, model: nn.Module, optimizer: Optimizer) -> None:
    tensors = load_file(file)
    optimizer.state.clear()
    for name, parameter in model.named_parameters():
        prefix = f"{name}."
        kinds = {key[len(prefix) :]: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        for kind, value in kinds.items():
            optimizer.state[parameter][kind] = _state(value, parameter)


def _state(value: Tensor, parameter: Tensor) -> Tensor | int:
    """A tensor shaped like the parameter, an integer (llamita's `step`), or another tensor (torch's `step`)."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value.clone() if value.is_floating_point() else int(value)


def _write_manifest(folder: Path, content: dict[str, Any]) -> None:
    names = sorted(file.name for file in folder.iterdir())
    content = json.loads(json.dumps({**content, "files": {name: _file_digest(folder / name) for name in names}}))
    text = json.dumps({**content, "sha256": _digest(content)}, indent=2)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8", newline="\n")


def _set_modes(folder: Path) -> None:
    """Give all files the mode of the manifest, which follows the umask: safetensors makes files private."""
    mode = (folder / MANIFEST_FILE).stat().st_mode & 0o777
    for file in folder.iterdir():
        file.chmod(mode)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _aside(path: Path) -> Path:
    """Where the old checkpoint is while a new one replaces it."""
    return path.with_name(f".{path.name}{REPLACED}")


def _replace(partial: Path, path: Path) -> None:
    for file in [*partial.iterdir(), partial]:
        sync(file)
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():  # a folder cannot be renamed onto another
        path.rename(aside)
    partial.rename(path)
    sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)
