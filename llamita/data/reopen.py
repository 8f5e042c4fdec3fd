"""The data of a run that was trained before: its tokens, although its text may be elsewhere, or gone."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamita.config import DataConfig, RunConfig
from llamita.corpus.opening import is_built_in, is_fetched
from llamita.data.dataset import Dataset, Progress, cache_folder, make_dataset, open_dataset
from llamita.data.manifest import MANIFEST_NAME, Manifest
from llamita.data.prepare import Prepared
from llamita.errors import UserError
from llamita.tokenizer import load_tokenizer
from llamita.tokenizer.making import KINDS


def place_facts(data: Dataset) -> dict[str, str]:
    """What a run records, to find its data again from anywhere: absolute paths, as facts of its config.toml.

    A path that is not UTF-8, which TOML cannot hold, is left out: the cache is searched without it, too.
    """
    paths = {"working_directory": Path.cwd(), "token_folder": data.prepared.folder.resolve()}
    return {name: str(path) for name, path in paths.items() if _is_utf8(str(path))}


def reopen_dataset(config: RunConfig, facts: Mapping[str, Any], progress: Progress | None = None) -> Dataset:
    """The data that the run of `config` and `facts` was trained on.

    They are what its `data_fingerprint` says: the token files where the run found them, or in the cache, or else its
    text prepared again. Paths in `config` are relative to the folder in which the run was started. Raises `UserError`
    where the tokens are gone and the text is, too, or has changed.
    """
    config = _absolute(config, facts.get("working_directory"))
    fingerprint = facts.get("data_fingerprint", "")
    if not is_built_in(config.data.data):  # those are quickly made, and know more than their tokens
        for folder in _token_folders(config, facts):
            if _has_fingerprint(folder, fingerprint):
                return make_dataset(config, Prepared(folder), load_tokenizer(folder), None)
    data = open_dataset(config, progress)
    if data.fingerprint != fingerprint:
        raise UserError(
            f"{', '.join(config.data.data)}: the text of this run has changed since, and its tokens are not in the "
            "cache: restore it"
        )
    return data


def _token_folders(config: RunConfig, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Where the tokens may be: where the run found them, and in the cache."""
    if "token_folder" in facts:
        yield Path(facts["token_folder"])
    yield from sorted(path.parent for path in cache_folder(config).glob(f"*/{MANIFEST_NAME}"))


def _has_fingerprint(folder: Path, fingerprint: str) -> bool:
    """Whether a folder has the token files with this fingerprint."""
    try:
        return Manifest.read(folder).fingerprint == fingerprint
    except UserError:  # there is none, or another version wrote it
        return False


def _absolute(config: RunConfig, directory: str | None) -> RunConfig:
    """`config` with paths that are relative to `directory` made absolute; older runs have not recorded it."""
    if directory is None or is_built_in(config.data.data):
        return config
    data = config.data
    texts = {"data": data.data, "val_data": data.val_data}
    if is_fetched(data.data, directory):
        del texts["data"]
    names = {name: tuple(os.path.join(directory, path) for path in paths) for name, paths in texts.items()}
    cache_dir = os.path.join(directory, data.cache_dir) if data.cache_dir else ""
    return replace(config, data=replace(data, **names, cache_dir=cache_dir, tokenizer=_tokenizer(data, directory)))


def _tokenizer(data: DataConfig, directory: str) -> str:
    named = data.tokenizer in (*KINDS, "gpt2")
    return data.tokenizer if named else os.path.join(directory, data.tokenizer)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
