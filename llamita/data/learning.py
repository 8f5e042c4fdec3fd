"""The text that a tokenizer is trained on, read together with what else has to be known about it."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

from llamita.config import RunConfig
from llamita.corpus import Corpus, Source, separate_documents
from llamita.corpus.documents import Pieces
from llamita.corpus.readings import LocalCorpus, Reading, read
from llamita.corpus.source import Progress
from llamita.data.encoding import look_ahead, report
from llamita.data.prepare import Known, known_before
from llamita.data.splitting import (
    VALIDATION_SHARE,
    Counter,
    Extent,
    first_bytes,
    limits,
    sample,
    split_last,
    until_characters,
    without_held_out,
    without_last,
)
from llamita.errors import UserError
from llamita.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TOKENIZER_TEXT = 100_000_000  # the most characters that merges are learned from: memory grows with the distinct words
TOKENIZER_VERSION = 3  # of the tokenizers trained here; a change makes cached ones stale

Train = Callable[[Iterator[Iterator[str]]], Tokenizer]
"""Documents -> the tokenizer that learned from them."""


def trained_tokenizer(config: RunConfig, source: Source, cache: Path, progress: Progress) -> tuple[Tokenizer, Known]:
    """The tokenizer of a text, from the cache or trained now, and what was found out about the text by that."""
    known = known_before(source.training, cache)
    if known.fingerprint and (_folder(config, source, known.fingerprint, cache) / "tokenizer.json").exists():
        return load_tokenizer(_folder(config, source, known.fingerprint, cache)), known

    def train(documents: Iterator[Iterator[str]]) -> Tokenizer:
        return train_tokenizer(
            config.data.tokenizer,
            documents,
            vocab_size=config.model.vocab_size,
            pattern=config.data.pattern,
            progress=lambda done, total: progress("training the tokenizer", done, total),
        )

    tokenizer, found = Lesson(config, source, train, progress).learn()
    if known.fingerprint not in (None, found.fingerprint):
        raise UserError(f"{source.training.describe()}: the text changed while it was read; start again")
    assert found.fingerprint is not None
    tokenizer.save(_folder(config, source, found.fingerprint, cache))
    return tokenizer, found


def _folder(config: RunConfig, source: Source, fingerprint: str, cache: Path) -> Path:
    """The folder in the cache of a tokenizer that was trained on this text."""
    settings: tuple[object, ...] = (config.data.tokenizer, TOKENIZER_VERSION)
    if config.data.tokenizer == "bpe":
        settings += (config.model.vocab_size, config.data.pattern)
    if source.validation is not None:  # then all of the corpus is trained on, and its characters count
        settings += (source.validation.fingerprint(),)
    if source.holdout_every is not None:
        settings += ("every", source.holdout_every)
    if config.data.max_corpus_tokens and not _is_read_whole(source):
        settings += ("tokens", config.data.max_corpus_tokens)
    name = hashlib.sha256(repr((fingerprint, *settings)).encode()).hexdigest()[:16]
    return cache / "tokenizers" / name


def _is_read_whole(source: Source) -> bool:
    """Whether a tokenizer is trained on all of a text, or an even sample, and not on its beginning."""
    is_split_at_the_end = source.validation is None and source.holdout_every is None
    return isinstance(source.training, LocalCorpus) or is_split_at_the_end


class Lesson:
    """What a tokenizer learns from.

    Merges come from the training part alone: text of the validation part is to be as new to them as to the model. But
    characters come from all the text, as is usual (nanoGPT does so): one that only the validation part has would be
    `<unk>` there, and the loss no longer that of the text.

    Merges of a local text are learned from an even sample, if there is too much of it, for which it has to be counted
    first. Those of a text that is fetched are learned from its beginning, without what a cap in tokens leaves out.
    """

    def __init__(self, config: RunConfig, source: Source, train: Train, progress: Progress):
        self._source, self._train, self._progress = source, train, progress
        self._of_characters = config.data.tokenizer == "char"
        self._max_tokens = config.data.max_corpus_tokens

    def learn(self) -> tuple[Tokenizer, Known]:
        """Train the tokenizer; it and what is known about the text then."""
        corpus = self._source.training
        if not _is_read_whole(self._source):
            with closing(read(corpus)) as reading:
                return self._taught(self._beginning(self._reported(reading))), Known(reading.fingerprint())
        if self._of_characters:
            return self._in_one_reading(corpus, self._all)
        if isinstance(corpus, LocalCorpus) and not 0 <= (corpus.most_characters or -1) <= TOKENIZER_TEXT:
            return self._in_two_readings(corpus)
        return self._in_one_reading(corpus, lambda pieces: pieces if self._source.validation else self._earlier(pieces))

    def _in_one_reading(self, corpus: Corpus, select: Callable[[Pieces], Pieces | None]) -> tuple[Tokenizer, Known]:
        """Learn while the text is counted, or afterwards if it cannot be split before that."""
        counter = Counter()
        with closing(read(corpus)) as reading:
            pieces = select(counter.count(self._reported(reading)))
            if pieces is not None:
                tokenizer = self._taught(pieces)
                return tokenizer, Known(reading.fingerprint(), counter.extent(corpus))
        return self._in_two_readings(corpus)

    def _in_two_readings(self, corpus: Corpus) -> tuple[Tokenizer, Known]:
        """Count first, then learn from an even sample of the training part."""
        counter = Counter()
        with closing(read(corpus)) as reading:
            for _ in counter.count(self._reported(reading)):
                pass
            known = Known(reading.fingerprint(), counter.extent(corpus))
        with closing(read(corpus)) as reading:
            validation, pieces = self._source.validation, self._reported(reading)
            tokenizer = self._taught(training_part(pieces, corpus, counter.extent(corpus), validation is not None))
            return tokenizer, known

    def _taught(self, pieces: Pieces) -> Tokenizer:
        return self._train(separate_documents(pieces))

    def _all(self, pieces: Pieces) -> Pieces:
        validation = self._source.validation
        return chain(pieces, validation.pieces() if validation else ())

    def _earlier(self, pieces: Pieces) -> Pieces | None:
        """All but the last share of the documents; None where the first one is too long to see whether it is alone."""
        extent, several, pieces = look_ahead(pieces)
        if several:
            return without_last(pieces, VALIDATION_SHARE)
        return extent and split_last(pieces, self._source.training, extent, VALIDATION_SHARE)[0]

    def _beginning(self, pieces: Pieces) -> Pieces:
        """Of a text that is fetched: as much as is learned from."""
        every = self._source.holdout_every
        most = limits(self._max_tokens, 1 / every if every else None).train
        if self._of_characters:
            return self._all(until_characters(pieces, every, most))
        return first_bytes(without_held_out(pieces, every) if every else pieces, min(most, TOKENIZER_TEXT))

    def _reported(self, reading: Reading) -> Pieces:
        return report(reading, "reading", self._progress)


def training_part(
    pieces: Pieces, corpus: Corpus, extent: Extent, is_all_for_training: bool, max_characters: int = TOKENIZER_TEXT
) -> Pieces:
    """The pieces of text of which `prepare` makes `train.bin`; of more than `max_characters`, an even sample."""
    if not is_all_for_training:
        pieces = split_last(pieces, corpus, extent, VALIDATION_SHARE)[0]
    return sample(pieces, max_characters / extent.characters) if extent.characters > max_characters else pieces
