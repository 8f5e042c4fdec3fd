"""Corpora that are fetched: the named ones of the catalog, and any dataset of the hub as `hf:OWNER/NAME[/FILES]`."""

import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from llamita.config import DataConfig
from llamita.corpus.articles import articles
from llamita.corpus.catalog import CATALOG, HOLDOUT_EVERY, NamedCorpus
from llamita.corpus.documents import Pieces, first_documents, join_documents
from llamita.corpus.hub import HubDataset
from llamita.corpus.parquet import parquet_texts
from llamita.corpus.remote import BLOCK, RemoteFile, make_folder
from llamita.corpus.source import Progress, Source
from llamita.corpus.text import TextFiles
from llamita.errors import UserError
from llamita.files import default_cache

HUB_PREFIX = "hf:"
HUB_NAME = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<files>.*))?")
VERSION = 1  # of how fetched files become documents; a change makes cached tokens stale
PER_VALIDATION_DOCUMENT = 10
"""With `max_documents`, of a validation file at most one document for this number of training documents is read."""


class FetchedText:
    """The documents of files that are fetched when they are read first.

    Args:
        name: what `--data` calls it.
        where: the place of the files, to print, with their revision.
        identity: all that the text of the files depends on.
        files: finds the files; it may ask the hub.
        options: how files are read.
        limit: only the first documents, and no more bytes than they need; 0: all.
        partial: whether the end of the files may not be needed; otherwise they are fetched before they are read.
        is_articles: see `NamedCorpus.articles`.
        progress: is told how much has been fetched.
    """

    def __init__(
        self,
        name: str,
        where: Callable[[], str],
        identity: Callable[[], tuple[str, ...]],
        files: Callable[[], Sequence[RemoteFile]],
        options: DataConfig,
        *,
        limit: int,
        partial: bool,
        is_articles: bool = False,
        progress: Progress | None = None,
    ):
        self._name, self._where, self._identity, self._find = name, where, identity, files
        self._options, self._limit, self._partial = options, limit, partial
        self._is_articles, self._progress = is_articles, progress

    @cached_property
    def files(self) -> Sequence[RemoteFile]:
        """The files, looked up when they are needed first."""
        return self._find()

    def pieces(self) -> Pieces:
        """The documents as `Corpus.pieces` describes them. Raises `UserError` for what cannot be fetched or read."""
        if not self._partial:
            self._fetch_all()
        if self._is_articles:
            rows = (parquet_texts(file, self._options.text_field) for file in self.files)
            pieces = articles(chain.from_iterable(rows))
        else:
            pieces = self._text.pieces()
        yield from first_documents(pieces, self._limit) if self._limit else pieces

    def documents(self) -> Iterator[str]:
        """The documents in order, each as one string."""
        return join_documents(self.pieces())

    def fingerprint(self) -> str:
        """sha256 in hex over what names the text: nothing is read, since what is fetched is verified."""
        how = (self._options.documents, self._options.encoding, self._options.errors, self._options.text_field)
        return hashlib.sha256(repr((VERSION, *self._identity(), *how, self._limit)).encode()).hexdigest()

    def describe(self) -> str:
        """Name, place and limit."""
        limit = f", the first {self._limit:,} documents" if self._limit else ""
        return f"{self._name} ({self._where()}{limit})"

    def notes(self) -> list[str]:
        """What the user should know about what was read."""
        return self._text.notes() if "_text" in vars(self) else []

    @cached_property
    def _text(self) -> TextFiles:
        options = self._options
        return TextFiles(
            files=self.files,
            documents=options.documents,
            text_field=options.text_field,
            encoding=options.encoding,
            errors=options.errors,
            read_size=BLOCK,
        )

    def _fetch_all(self) -> None:
        total = sum(file.size for file in self.files)
        missing = sum(file.bytes_missing() for file in self.files)
        done = total - missing
        if missing:
            self._require_space(missing)

        def arrived(size: int) -> None:
            nonlocal done
            done += size
            if self._progress:
                self._progress(f"downloading {self._name}", done, total)

        for file in self.files:
            file.fetch_all(arrived)

    def _require_space(self, missing: int) -> None:
        make_folder(folder := self.files[0].path.parent)
        if missing > (free := shutil.disk_usage(folder).free):
            raise UserError(
                f"{self._name}: {_readable(missing)} to fetch, but {folder} has only {_readable(free)} free; choose "
                "another cache, LLAMITA_CACHE, or fetch less, such as --max_documents 100k"
            )


def open_fetched(name: str, options: DataConfig, progress: Progress | None) -> Source:
    """The source of a corpus of the catalog, or of `hf:OWNER/NAME[/FILES]`. Nothing is fetched yet.

    Raises `UserError` for a name after `hf:` that is not OWNER/NAME.
    """
    corpus = _hub_corpus(name) if name.startswith(HUB_PREFIX) else CATALOG[name]
    if options.text_field == DataConfig.text_field:
        options = replace(options, text_field=corpus.text_field)
    if corpus.file and options.data_revision:
        raise UserError(f"--data_revision: {name} has only one; leave it out")
    return _Opening(name, corpus, options, progress).source()


def _hub_corpus(name: str) -> NamedCorpus:
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"--data {name}: not a dataset of the hub; write {HUB_PREFIX}OWNER/NAME, or with its files")
    return NamedCorpus("", "", match["repository"], "main", match["files"] or "")


class _Opening:
    """From an entry of the catalog to its source."""

    def __init__(self, name: str, corpus: NamedCorpus, options: DataConfig, progress: Progress | None):
        self._name, self._corpus, self._options, self._progress = name, corpus, options, progress
        self._cache = Path(options.cache_dir) if options.cache_dir else default_cache()
        revision = options.data_revision or corpus.revision
        self._dataset = HubDataset(corpus.repository, revision, self._cache)
        self._is_announced = False

    def source(self) -> Source:
        """Training text, and validation text where the corpus has a file for that."""
        options, corpus = self._options, self._corpus
        partial = bool(options.max_documents or options.max_corpus_tokens)
        training = self._text("train", self._training_files, options.max_documents, partial)
        if not corpus.validation:
            every = None if corpus.file else HOLDOUT_EVERY
            return Source(training, holdout_every=every, notes=training.notes)
        limit = -(-options.max_documents // PER_VALIDATION_DOCUMENT)
        validation = self._text("validation", self._validation_files, limit, bool(limit))
        return Source(training, validation, notes=lambda: [*training.notes(), *validation.notes()])

    def _text(self, part: str, files: Callable[[], list[RemoteFile]], limit: int, partial: bool) -> FetchedText:
        return FetchedText(
            self._name,
            self._where,
            lambda: (*self._identity(), part),
            lambda: [replace(file, before_fetch=self._announce) for file in files()],
            self._options,
            limit=limit,
            partial=partial,
            is_articles=self._corpus.articles,
            progress=self._progress,
        )

    def _where(self) -> str:
        file = self._corpus.file
        return file.url.partition("://")[2] if file else f"{self._dataset.page} at {self._dataset.commit[:7]}"

    def _identity(self) -> tuple[str, ...]:
        corpus = self._corpus
        if corpus.file:
            return (corpus.file.sha256,)
        return corpus.repository, self._dataset.commit, corpus.files, corpus.validation

    def _training_files(self) -> list[RemoteFile]:
        file = self._corpus.file
        if file is None:
            return self._dataset.training_files(self._corpus.files)
        path = self._cache / "hub" / self._name / file.sha256[:16] / Path(file.url).name
        return [RemoteFile(path, False, file.size, file.url, self._name, file.sha256, is_on_hub=False)]

    def _validation_files(self) -> list[RemoteFile]:
        return self._dataset.matching(self._corpus.validation)

    def _announce(self) -> None:
        """Say what is fetched, before the first byte of it is."""
        if self._is_announced:
            return
        self._is_announced = True
        files = [*self._training_files(), *(self._validation_files() if self._corpus.validation else ())]
        size = _readable(sum(file.size for file in files))
        licence = self._corpus.licence or self._dataset.listing.licence
        count = f"{len(files)} file{'s' if len(files) > 1 else ''}"
        what = f"{self._name}: {size} in {count} of {self._where()}; licence: {licence}{self._part()}"
        print(what, file=sys.stderr)

    def _part(self) -> str:
        """That not everything is fetched, where that is so."""
        options = self._options
        needs = f"the first {options.max_documents:,} documents need" if options.max_documents else ""
        if options.max_corpus_tokens and not needs:
            needs = f"{options.max_corpus_tokens:,} tokens need"
        return f"; fetching as much of it as {needs}" if needs else ""


def _readable(size: int) -> str:
    """Bytes in the unit that suits them."""
    unit, scale = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)) if size >= s or u == "KB")
    return f"{size / scale:,.1f} {unit}"
