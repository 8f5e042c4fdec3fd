"""Datasets of the Hugging Face hub: which files one revision has, asked once and kept in the cache."""

import json
import os
import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llamita.corpus.files import JSON_LINES, PARQUET
from llamita.corpus.remote import RemoteFile, make_folder
from llamita.corpus.web import WITHOUT_NETWORK, Retries, one_line, transient_errors
from llamita.errors import UserError
from llamita.files import write_json

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo

FORMATS = ((PARQUET,), JSON_LINES, (".txt",))
"""Endings of what can be read, each also with .gz: a dataset that has several is read in the first."""
OTHER_SPLITS = {"valid", "validation", "val", "test", "dev", "eval"}
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Listing:
    """The files of one commit: path -> (bytes, sha256 or git's sha1); and the licence that the dataset states."""

    commit: str
    licence: str
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class HubDataset:
    """One revision of a dataset: OWNER/NAME, a commit, branch or tag, and the folder for what is fetched."""

    repository: str
    revision: str
    cache: Path

    @property
    def page(self) -> str:
        """Its address without the scheme, to print."""
        return f"{endpoint().partition('://')[2]}/datasets/{self.repository}"

    @property
    def folder(self) -> Path:
        """The folder of the dataset in the cache."""
        return self.cache / "hub" / self.repository.replace("/", "--")

    @cached_property
    def commit(self) -> str:
        """The commit that the revision stands for. A branch is looked up once, and then stays where it was."""
        return self.revision if COMMIT.fullmatch(self.revision) else self.listing.commit

    @cached_property
    def listing(self) -> Listing:
        """The files, from the cache or from the hub. Raises `UserError` where neither has them."""
        kept = self.folder / f"{quote(self.revision, safe='')}.json"
        if kept.exists():
            rows = json.loads(kept.read_text(encoding="utf-8"))
            return Listing(rows["commit"], rows["licence"], {name: (s, c) for name, (s, c) in rows["files"].items()})
        listing = _listing(self._ask())
        make_folder(kept.parent)
        write_json(kept, asdict(listing))
        return listing

    def matching(self, pattern: str) -> list[RemoteFile]:
        """The files that a pattern, a folder or a name stands for, sorted. Raises `UserError` where there are none."""
        names = [name for name in self.listing.files if _matches(name, pattern)]
        if not names:
            raise UserError(
                f"hf:{self.repository}: no file {pattern} in revision {self.revision}; check the name, or give another "
                "--data_revision"
            )
        return [self._file(name) for name in sorted(names)]

    def training_files(self, pattern: str = "") -> list[RemoteFile]:
        """The files of one format and of the train split, all or those of a pattern. Raises `UserError` for none.

        Where no name tells the split, all that are of no other one; a pattern may name another split.
        """
        names = [name for name in self.listing.files if not pattern or _matches(name, pattern)]
        readable = next(filter(None, ([n for n in names if _suffix(n) in group] for group in FORMATS)), [])
        by_split = {split: [n for n in readable if _split(n) == split] for split in ("train", "", "other")}
        chosen = by_split["train"] or by_split[""] or (by_split["other"] if pattern else [])
        if not chosen:
            raise UserError(
                f"hf:{self.repository}: no .parquet, .jsonl or .txt files {pattern or 'of a train split'} in revision "
                f"{self.revision}; name its files, hf:{self.repository}/FILES, or give another --data_revision"
            )
        if not pattern:
            self._require_one_folder(chosen)
        return [self._file(name) for name in sorted(chosen)]

    def _require_one_folder(self, names: list[str]) -> None:
        """Different folders are usually subsets, or the same text in several forms: the user has to choose."""
        folders = defaultdict[str, int](int)
        for name in names:
            folders[str(PurePosixPath(name).parent)] += 1
        if len(folders) > 1:
            first = sorted(folders)[:3]
            raise UserError(
                f"hf:{self.repository}: has files in {len(folders)} folders, such as {', '.join(first)}; name one: "
                f"hf:{self.repository}/{first[0]} (or all: hf:{self.repository}/*)"
            )

    def _file(self, name: str) -> RemoteFile:
        from huggingface_hub import hf_hub_url

        size, checksum = self.listing.files[name]
        url = hf_hub_url(self.repository, name, repo_type="dataset", revision=self.listing.commit, endpoint=endpoint())
        path = self.folder / self.listing.commit / name
        return RemoteFile(path, False, size, url, f"hf:{self.repository}/{name}", checksum)

    def _ask(self) -> "DatasetInfo":
        from huggingface_hub import HfApi

        retries = Retries(f"hf:{self.repository}, revision {self.revision}")
        while True:
            try:
                return HfApi(endpoint()).dataset_info(
                    self.repository, revision=self.revision, files_metadata=True, timeout=30
                )
            except transient_errors() as error:
                retries.wait(error)
            except (ValueError, KeyError, TypeError) as error:  # a page of a captive portal, a name that cannot be
                raise UserError(
                    f"hf:{self.repository}: the answer is not that of a hub ({one_line(error):.200}); check name and "
                    f"network; {WITHOUT_NETWORK}"
                ) from error


def endpoint() -> str:
    """The hub's address: $HF_ENDPOINT as it is now, which huggingface_hub reads only when it is imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def _listing(info: "DatasetInfo") -> Listing:
    card: Any = info.card_data or {}
    licences = card.get("license") or "not stated"
    licence = licences if isinstance(licences, str) else ", ".join(licences)
    files = {
        s.rfilename: (s.size or 0, s.lfs.sha256 if s.lfs else s.blob_id or "")
        for s in info.siblings or ()
        if s.size and _is_inside(s.rfilename)
    }
    return Listing(info.sha or "", licence, files)


def _is_inside(name: str) -> bool:
    """Whether a path of the hub stays within the folder that it is put into."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(pattern.rstrip("/") + "/")


def _suffix(name: str) -> str:
    return PurePosixPath(name.removesuffix(".gz")).suffix.lower()


def _split(name: str) -> str:
    """The split that the name of a file, or else of a folder that it is in, tells: "train", "other" or none."""
    for part in reversed(PurePosixPath(name).parts):
        words = re.split(r"[._-]", part.lower())
        if any(word.startswith("train") for word in words):
            return "train"
        if not OTHER_SPLITS.isdisjoint(words):
            return "other"
    return ""
