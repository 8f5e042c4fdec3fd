"""From text to the token files of both parts, in as few readings as the split allows."""

from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

from llamita.corpus import Corpus
from llamita.corpus.documents import Pieces
from llamita.corpus.readings import Reading, read
from llamita.corpus.source import Progress
from llamita.data.manifest import Part
from llamita.data.splitting import Counter, Extent, limits, share_of, split_last
from llamita.data.token_file import TokenWriter
from llamita.errors import UserError
from llamita.tokenizer import Tokenizer
from llamita.tokenizer.batches import Encoded
from llamita.tokenizer.parallel import DocumentEncoder

LOOK_AHEAD = 1 << 21
"""Characters that are held in memory to find out whether there is more than one document."""


@dataclass(frozen=True)
class Text:
    """What to encode, and how it is split.

    Attributes:
        corpus: the text, all for training where there is a `validation`.
        validation: the text to validate on.
        share: the last share of the documents of `corpus` is for validation.
        holdout_every: in place of `share`, every n-th document is.
        max_tokens: of both parts together, but for a `validation`; 0: all.
    """

    corpus: Corpus
    validation: Corpus | None
    share: float
    holdout_every: int | None
    max_tokens: int

    @property
    def validation_share(self) -> float | None:
        """The share of the corpus that is for validation; None where there is a text for that."""
        if self.validation is not None:
            return None
        return 1 / self.holdout_every if self.holdout_every else self.share


class Sink(Protocol):
    """What encoded documents are written to."""

    def write(self, encoded: Encoded) -> None:
        """Append them."""
        ...

    def needed(self) -> int:
        """How many more tokens it takes."""
        ...


class HeldOut:
    """Writes the first document, and every `every`-th after it, to the validation part, and the others to `train`."""

    def __init__(self, train: TokenWriter, val: TokenWriter, every: int):
        self._train, self._val, self._every = train, val, every
        self._number = 0  # of the current document

    def needed(self) -> int:
        """What the training part takes: what validation may still lack is not worth reading on."""
        return self._train.needed()

    def write(self, encoded: Encoded) -> None:
        """Write each run of documents of one part to its file."""
        ids, ends = encoded
        start, run = 0, 0
        while len(ids) > start or len(ends):
            writer, run = self._run()
            ended = ends[:run]
            stop = int(ended[-1]) if len(ended) == run else len(ids)
            writer.write(Encoded(ids[start:stop], ended - start))
            self._number += len(ended)
            start, ends = stop, ends[run:]

    def _run(self) -> tuple[TokenWriter, int]:
        """The file of the current document, and how many documents are in a row for it."""
        after = self._number % self._every
        return (self._train, self._every - after) if after else (self._val, 1)


class Encoding:
    """One preparation: the readings, and the two files that they are written to."""

    def __init__(self, text: Text, tokenizer: Tokenizer, workers: int | None, progress: Progress | None):
        self._text, self._tokenizer = text, tokenizer
        self._workers, self._progress = workers, progress or (lambda *_: None)

    def write(self, folder: Path, extent: Extent | None) -> tuple[dict[str, Part], list[str]]:
        """Write `train.bin` and `val.bin` -> what is in them, and the fingerprint of each text as it was encoded."""
        most = limits(self._text.max_tokens, self._text.validation_share)
        with (
            DocumentEncoder(self._tokenizer, self._workers) as self._encoder,
            TokenWriter(folder / "train.bin", self._tokenizer, most.train) as train,
            TokenWriter(folder / "val.bin", self._tokenizer, most.val) as val,
        ):
            fingerprints = self._encode(train, val, extent)
            return {"train": train.finish(), "val": val.finish()}, fingerprints

    def _encode(self, train: TokenWriter, val: TokenWriter, extent: Extent | None) -> list[str]:
        text = self._text
        if text.validation is not None:
            return [self._whole(text.corpus, train), self._whole(text.validation, val)]
        if text.holdout_every is not None:
            return [self._held_out(train, val, text.holdout_every)]
        return [self._last_share(train, val, self._count() if text.max_tokens and extent is None else extent)]

    def _whole(self, corpus: Corpus, writer: TokenWriter) -> str:
        """All of a text for one part."""
        with closing(read(corpus)) as reading:
            self._copy(self._reported(reading), writer)
            if writer.is_empty:
                raise nothing_in(corpus)
            return reading.fingerprint()

    def _held_out(self, train: TokenWriter, val: TokenWriter, every: int) -> str:
        """Both parts from one reading, which ends when the training part is full."""
        corpus = self._text.corpus
        with closing(read(corpus)) as reading:
            self._copy(self._reported(reading), HeldOut(train, val, every))
            if val.is_empty:
                raise nothing_in(corpus)
            if train.is_empty:
                raise UserError(f"{corpus.describe()}: one document is too few to hold one out; give more of them")
            return reading.fingerprint()

    def _last_share(self, train: TokenWriter, val: TokenWriter, extent: Extent | None) -> str:
        """Both parts from one reading; where one ends is known only in the end, unless the text was counted before."""
        corpus, share = self._text.corpus, self._text.share
        with closing(read(corpus)) as reading:
            pieces, several = self._reported(reading), False
            if extent is None:
                extent, several, pieces = look_ahead(pieces)
            if several:
                self._copy(pieces, train)
                train.move_documents(train.documents - share_of(train.documents, share), val)
            elif extent is not None:
                self._copy_split(pieces, train, val, extent)
            else:  # a long document, perhaps the only one
                reading.close()
                return self._last_share(train, val, self._count())
            return reading.fingerprint()

    def _copy_split(self, pieces: Pieces, train: TokenWriter, val: TokenWriter, extent: Extent) -> None:
        if extent.documents == 0:
            raise nothing_in(self._text.corpus)
        for_training, for_validation = split_last(pieces, self._text.corpus, extent, self._text.share)
        self._copy(for_training, train)
        for _ in for_training:  # what is left out since the part is full
            pass
        self._copy(for_validation, val)

    def _copy(self, pieces: Pieces, sink: Sink) -> None:
        """Encode into a file, until it is full."""
        with closing(self._encoder.encode(pieces, sink.needed)) as blocks:
            for encoded in blocks:
                sink.write(encoded)
                if sink.needed() == 0:
                    return

    def _count(self) -> Extent:
        """Read the text once to know its extent."""
        counter = Counter()
        with closing(read(self._text.corpus)) as reading:
            for _ in counter.count(report(reading, "reading", self._progress)):
                pass
        return counter.extent(self._text.corpus)

    def _reported(self, reading: Reading) -> Pieces:
        return report(reading, "encoding", self._progress)


def report(reading: Reading, label: str, progress: Progress) -> Pieces:
    """The pieces of a reading, of which `progress` is told the position, where the size is known."""
    for piece in reading.pieces:
        yield piece
        if reading.size and piece is not None:
            progress(label, min(reading.position, reading.size), reading.size)


def look_ahead(pieces: Pieces) -> tuple[Extent | None, bool, Pieces]:
    """Read on until it is clear how many documents there are: -> (extent, whether there are several, all the pieces).

    The extent is known of a single document, or none; not where the first one is longer than is held in memory.
    """
    held: list[str | None] = []
    size, ended = 0, False
    for piece in pieces:
        held.append(piece)
        if piece is None:
            ended = True
        elif ended or (size := size + len(piece)) > LOOK_AHEAD:
            return None, ended, chain(held, pieces)
    return Extent(int(ended), size), False, iter(held)


def nothing_in(corpus: Corpus) -> UserError:
    """The error for a corpus without text."""
    return UserError(f"{corpus.describe()}: there is no text in it")
