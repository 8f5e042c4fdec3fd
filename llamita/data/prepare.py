"""From a corpus to token files: encoded once, split into training and validation, and cached for later runs."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from llamita.corpus import Corpus
from llamita.corpus.readings import HashedCorpus
from llamita.corpus.source import Progress
from llamita.data.encoding import Encoding, Text
from llamita.data.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, Part
from llamita.data.publishing import partial_folder, publish, require_same
from llamita.data.splitting import VALIDATION_SHARE, Extent
from llamita.data.token_file import TokenFile
from llamita.errors import UserError
from llamita.tokenizer import Tokenizer

READING_VERSION = 2  # of how files become documents, and those ids; a change makes cached tokens stale


class Prepared:
    """A folder of finished token files, opened: `train` and `validation`. A UserError if they are damaged."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self.train = TokenFile(folder / "train.bin")
        self.validation = TokenFile(folder / "val.bin")


class Known(NamedTuple):
    """What an earlier reading of a corpus found out, so that it need not be read for that again."""

    fingerprint: str | None = None
    extent: Extent | None = None


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache: str | os.PathLike[str],
    *,
    validation_corpus: Corpus | None = None,
    validation_share: float = VALIDATION_SHARE,
    holdout_every: int | None = None,
    max_tokens: int = 0,
    output_dir: str | os.PathLike[str] | None = None,
    known: Known = Known(),  # noqa: B008  (immutable)
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Write `train.bin`, `val.bin`, `tokenizer.json` and `manifest.json` into a folder, or find them there finished.

    Each document is followed by the end token if the tokenizer has one. The validation part is all of
    `validation_corpus`, or the first document and every `holdout_every`-th after it, or else the last share of the
    documents of `corpus` (one at least), or of the characters where there is a single document. The folder is complete
    or absent, and its name is a hash of text, split and tokenizer.

    The memory needed does not grow with the text, which is read once: its bytes are hashed for the name of the folder
    while they are encoded, and what turns out to be the last share is moved to the other file in the end. It is read
    once more
    - to count, before it is encoded, where a cap in tokens has to be split in proportion, or where the first document
      is so long that it may be the only one, and has to be cut;
    - to hash it before anything else, where the cache has tokens of a text of the same size, which may be this one.
    A corpus whose fingerprint needs no reading is not read for it, and with `holdout_every` only as far as it is used.

    Args:
        corpus: the text; with a `validation_corpus`, all of it is for training.
        tokenizer: what makes ids of it.
        cache: the folder that holds the prepared folders; made when absent.
        validation_corpus: the text to validate on.
        validation_share: between 0 and 1.
        holdout_every: as `Source.holdout_every`; None: the last share.
        max_tokens: each part ends, within a document if need be, where it has its share of these; 0: no limit. A
            `validation_corpus` is not cut.
        output_dir: the folder to write to, in place of one in the cache.
        known: what is known about `corpus` already.
        workers: processes that encode a large text; None: one for each core; 1: none but this one. The ids are equal.
        progress: called with ("reading" or "encoding", bytes or characters so far, and in all).

    Raises:
        UserError: text that cannot be read or is too short to split or changes while it is read, a disk that cannot
            take the files, a worker that is killed, or an `output_dir` that holds something else.
    """
    if not 0 < validation_share < 1:
        raise UserError(f"the share of the text for validation is {validation_share}; it must be between 0 and 1")
    text = Text(corpus, validation_corpus, validation_share, holdout_every, max_tokens)
    place = _Place(Path(cache), Path(output_dir) if output_dir else None)
    expected = _fingerprints(text, known, place)
    if expected and (found := place.find(_identity(text, expected, tokenizer))):
        return Prepared(found)
    with partial_folder(place.parent) as partial:
        encoding = Encoding(text, tokenizer, workers, progress)
        parts, fingerprints = encoding.write(partial, known.extent)
        if expected not in (None, fingerprints) or known.fingerprint not in (None, fingerprints[0]):
            raise UserError(f"{corpus.describe()}: the text changed while it was read; start again")
        tokenizer.save(partial)
        _manifest(text, fingerprints, tokenizer, parts).write(partial)
        folder = place.folder(_identity(text, fingerprints, tokenizer))
        publish(partial, folder)
    return Prepared(folder)


class _Place:
    """Where prepared folders are: in the cache under their identity, or where the user wants the one."""

    def __init__(self, cache: Path, output_dir: Path | None):
        self._cache, self._output_dir = cache, output_dir
        self.parent = output_dir.parent if output_dir else cache

    def folder(self, identity: str) -> Path:
        """The folder for these tokens."""
        return self._output_dir or self._cache / identity[:16]

    def find(self, identity: str) -> Path | None:
        """The finished folder of these tokens. Raises `UserError` where the user named one that has something else."""
        folder = self.folder(identity)
        if self._output_dir:
            require_same(folder, identity)
        return folder if (folder / MANIFEST_NAME).exists() else None

    def may_have(self, size: int) -> bool:
        """Whether there are tokens of a text of this many bytes, or of a size that their manifest does not tell."""
        if self._output_dir:
            return self._output_dir.exists()
        return any(
            _source_bytes(manifest.parent) in (None, size) for manifest in self._cache.glob(f"*/{MANIFEST_NAME}")
        )


def _source_bytes(folder: Path) -> int | None:
    try:
        return Manifest.read(folder).source_bytes
    except UserError:  # damaged, or of another version
        return 0


def known_before(corpus: Corpus, cache: Path) -> Known:
    """What can be known of a corpus without a reading that can be spared: files need none if no tokens are of them."""
    if isinstance(corpus, HashedCorpus) and not _Place(cache, None).may_have(corpus.size):
        return Known()
    return Known(corpus.fingerprint())


def _fingerprints(text: Text, known: Known, place: _Place) -> list[str] | None:
    """The fingerprints of the texts; None where that takes a reading which can be spared, as `known_before` does."""
    unread = [*([] if known.fingerprint else [text.corpus]), *([text.validation] if text.validation else [])]
    if any(isinstance(corpus, HashedCorpus) for corpus in unread) and not place.may_have(_size(text)):
        return None
    first = [known.fingerprint] if known.fingerprint else []
    return [*first, *(corpus.fingerprint() for corpus in unread)]


def _size(text: Text) -> int:
    """The bytes of the files of a corpus that are hashed when they are read; 0 for other corpora."""
    return text.corpus.size if isinstance(text.corpus, HashedCorpus) else 0


def _identity(text: Text, fingerprints: list[str], tokenizer: Tokenizer) -> str:
    """A hash of all that makes token files what they are."""
    source, *validation = fingerprints
    split = validation[0] if validation else text.holdout_every or text.share
    limit = (text.max_tokens,) if text.max_tokens else ()
    facts = (FORMAT_VERSION, READING_VERSION, source, split, tokenizer.fingerprint, *limit)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _manifest(text: Text, fingerprints: list[str], tokenizer: Tokenizer, parts: dict[str, Part]) -> Manifest:
    return Manifest(
        source=text.corpus.describe(),
        source_fingerprint=fingerprints[0],
        validation=_describe_split(text),
        validation_fingerprint=fingerprints[1] if len(fingerprints) > 1 else None,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        end_id=tokenizer.end_id,
        parts=parts,
        identity=_identity(text, fingerprints, tokenizer),
        source_bytes=_size(text),
    )


def _describe_split(text: Text) -> str:
    if text.validation is not None:
        return text.validation.describe()
    return f"every {text.holdout_every}th document" if text.holdout_every else f"the last {text.share}"
