"""The `manifest.json` beside the token files: everything needed to trust them, and to count with them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from llamita.errors import UserError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Part:
    """One token file. `bytes` are the UTF-8 bytes of its text as the tokenizer's `byte_lengths` count them,
    special tokens not at all."""

    size: int
    sha256: str
    documents_sha256: str
    dtype: str
    tokens: int
    bytes: int
    documents: int
    largest_id: int


@dataclass(frozen=True)
class Manifest:
    """Where the tokens come from (text, tokenizer, how validation was split off), and the parts `train` and `val`.

    `identity` is a hash of all that, `source` and `validation` are to be read. `source_bytes` is the size of the files
    that were read, 0 where there were none; None in folders of earlier versions.
    """

    source: str
    source_fingerprint: str
    validation: str
    validation_fingerprint: str | None
    tokenizer_fingerprint: str
    vocab_size: int
    end_id: int | None
    parts: dict[str, Part]
    identity: str = ""
    source_bytes: int | None = None
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """sha256 over the token files: equal exactly for equal tokens, made by the same tokenizer."""
        hashes = [self.tokenizer_fingerprint, *(part.sha256 for part in self.parts.values())]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into the folder."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read `manifest.json` of the folder; a UserError if it is missing, damaged or of another format version."""
        path = folder / MANIFEST_NAME
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields["format_version"]
            if version == FORMAT_VERSION:
                parts = {name: Part(**part) for name, part in fields.pop("parts").items()}
                return cls(parts=parts, **fields)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); a token file needs it beside it") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: damaged; {how_to_repair(folder)}") from error
        raise UserError(f"{path}: format version {version}, not {FORMAT_VERSION}; {how_to_repair(folder)}")


def how_to_repair(folder: Path) -> str:
    """What to do about damaged token files: they can always be prepared again."""
    return f"delete the folder {folder} and its token files are prepared again"
