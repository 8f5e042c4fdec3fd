"""Derive llamita/tokenizer/character_classes.txt from tiktoken. Run: python scripts/derive_character_classes.py

Split patterns use \\p{L}, \\p{N}, \\s and (?i:...), and the meaning of these depends on the regex engine: the
Python packages `regex` and `unicodedata` follow other Unicode versions than tiktoken does (17,144 code points
differ for \\p{L} alone). Vocabularies are published with tiktoken, so tiktoken is the reference, and llamita pins its
classes.

How the probe works: tiktoken encodes what its pattern matches and silently drops everything between the matches. So an
encoding whose only tokens are the 256 bytes, with the class itself as its pattern, given a text of every code point,
encodes exactly the members of the class. Decoding lists them. Surrogates are not characters and are excluded.

`--check` writes nothing, and exits with 1 if the checked-in table differs from the installed tiktoken.
"""

import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from textwrap import wrap

import tiktoken

TABLE = Path(__file__).resolve().parents[1] / "llamita" / "tokenizer" / "character_classes.txt"
CLASSES = {"letter": r"\p{L}", "number": r"\p{N}", "whitespace": r"\s"}
# The letters of the contractions 's 't 're 've 'm 'll 'd, which cl100k and llama3 match in any case.
CLASSES |= {f"any_case_{letter}": f"(?i:{letter})" for letter in "delmrstv"}
HEADER = """\
# What tiktoken {version} means by the character classes of split patterns: ranges of code points in hexadecimal, both
# ends included. Written by scripts/derive_character_classes.py, which explains how; don't edit by hand.
"""


def members(pattern: str) -> str:
    """Every character that tiktoken matches with `pattern`, in order."""
    every_character = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF)
    single_bytes = {bytes([value]): value for value in range(256)}
    probe = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=single_bytes, special_tokens={})
    return probe.decode(probe.encode_ordinary(every_character))


def ranges(points: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending code points as (first, last) runs."""
    runs: list[tuple[int, int]] = []
    for point in points:
        if runs and runs[-1][1] == point - 1:
            runs[-1] = (runs[-1][0], point)
        else:
            runs.append((point, point))
    return runs


def table() -> str:
    """The whole content of the table file."""
    text = HEADER.format(version=version("tiktoken"))
    for name, pattern in CLASSES.items():
        runs = ranges(map(ord, members(pattern)))
        cells = " ".join(f"{first:X}" if first == last else f"{first:X}-{last:X}" for first, last in runs)
        text += f"\n[{name}]  # {pattern}\n" + "\n".join(wrap(cells, 120, break_on_hyphens=False)) + "\n"
    return text


def main() -> int:
    if "--check" not in sys.argv:
        TABLE.write_text(table(), encoding="utf-8")
        return 0
    derived, checked_in = (text.partition("\n\n")[2] for text in (table(), TABLE.read_text(encoding="utf-8")))
    print("the table matches tiktoken" if derived == checked_in else "the table differs from tiktoken")
    return int(derived != checked_in)


if __name__ == "__main__":
    sys.exit(main())
