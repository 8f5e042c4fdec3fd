"""The benchmark texts: English, code, and many scripts, from files on the machine."""

import gettext
import sysconfig
from pathlib import Path

from llamita.corpus import StoryCorpus, join_documents
from llamita.tokenizer.documents import read_blocks

STORIES = 8000  # about 7 MB
CODE = 7_000_000  # characters
CATALOGUES = Path("/usr/share/locale")
LANGUAGES = (
    "ru", "el", "ar", "he", "fa", "hi", "bn", "ta", "th", "ko", "ja", "zh_CN", "ka", "hy", "uk", "am", "vi", "tr",
)  # fmt: skip
"""In scripts: Cyrillic, Greek, Arabic, Hebrew, Devanagari, Bengali, Tamil, Thai, Hangul, Kana, Han, Georgian, …"""
CHARACTERS_PER_LANGUAGE = 200_000
MIN_MULTILINGUAL = 2_000_000  # bytes


def english(file: Path | None) -> str:
    """The text of a file, or built-in stories."""
    if file is None:
        return "\n".join(join_documents(StoryCorpus(0, STORIES).pieces()))
    return "".join(read_blocks(file))


def code() -> str:
    """The first files of Python's standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(file for file in folder.rglob("*.py") if "site-packages" not in file.parts)
    parts, size = [], 0
    for file in files:
        parts.append(file.read_text(encoding="utf-8", errors="ignore"))
        size += len(parts[-1])
        if size >= CODE:
            break
    return "".join(parts)


def multilingual(file: Path | None) -> str | None:
    """The text of a file, or the machine's message catalogues in LANGUAGES; None if they are too small."""
    if file is not None:
        return english(file)
    texts = ["\n".join(_messages(CATALOGUES / language / "LC_MESSAGES")) for language in LANGUAGES]
    text = "\n".join(text[:CHARACTERS_PER_LANGUAGE] for text in texts)
    return text if len(text.encode("utf-8")) >= MIN_MULTILINGUAL else None


def _messages(folder: Path) -> list[str]:
    """The translations of all catalogues in a folder."""
    found: list[str] = []
    for file in sorted(folder.glob("*.mo")):
        with file.open("rb") as stream:
            catalogue = gettext.GNUTranslations(stream)
        translations = getattr(catalogue, "_catalog", {}).values()
        found += [text for text in translations if isinstance(text, str) and not text.isascii()]
    return found
