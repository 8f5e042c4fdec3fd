"""Code, messages and docs use the field's vocabulary: the words of GLOSSARY appear nowhere in the project.

Each entry is a phrase that no ML engineer would use for its concept, and what to write instead. A space in a phrase
matches a space, a line break, `_` or `-`, so that prose, comments and identifiers are all covered.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECKED = "llamita", "tests", "benchmarks", "scripts", "docs", ".ci", "README.md", "pyproject.toml", "CONTRIBUTING.md"
SUFFIXES = ".py", ".md", ".toml", ".sh", ""

GLOSSARY = {
    # kernels and memory
    "lies? flat|lie flat|lying flat": "is contiguous",
    "stretch(es|ed)?": "chunk, contiguous range",
    "rooms?": "workspace, scratch buffer, space, capacity",
    "imagin(e|ed|es|ing)": "FakeTensor, fake mode",
    "at once": "at a time, concurrently, immediately",
    "nothing narrower|narrower natively": "has no bf16 instructions",
    "(do|does) not pay": "is not worth it, is not faster",
    "on trial|fastest in a trial": "autotune, trial step",
    "fused loops?|compiled loops?": "fused kernel",
    "take rows": "next_chunk",
    "store any": "store_nan_safe",
    "exact body": "strict_fp_kernel",
    "has no values": "is_fake",
    "matrix peak": "peak FLOP/s",
    "writes? aside|written aside": "write to a temporary file and rename it",
    # attention and gradients
    "chances": "probabilities, P",
    "slopes": "gradients, dS",
    "descend": "backward",
    "soften(s|ed|ing)?": "softmax",
    "let heads copy": "init_copy_heads",
    # numbers
    "(is|are|was|were|be|becomes?) no numbers?": "is not finite, is NaN",
    "of equals": "ties",
    # training
    "adds? up": "all-reduce, accumulate, sum",
    "unsynchroni[sz]ed": "without all-reduce, no_sync",
    # structure
    "floors|check floors|crossed floor": "layer; the *loss floor* of a corpus is a standard name here",
    "house": "architecture",
    "hand(s|ed|ing)? (on|out|over|back)": "return, pass",
    # users and messages
    "belongs? to no flag": "unknown argument",
    "a person": "the user",
    "wish(es|ed)?": "request",
    "wanted": "requested, target",
    # English
    "behind (the|a damaged|all|each|every|what|it|its|them)|all behind": "after",
    "so many": "the number: `N tokens`, `num_rows`",
    "(go|goes|going|went|gone) on": "continue, resume",
    "mend(s|ed|ing)?": "fix",
    "anew": "again, from scratch",
    "seldom": "rarely",
}

EXCEPTIONS = (
    ("tests/test_glossary.py", ".*", "lists the words"),
    ("llamita/corpus/story_*.py", ".*", "the stories' own words: rooms, houses, wishes"),
    ("tests/test_stories.py", "house|rooms?|wish|behind", "quotes stories"),
    ("docs/results.md", "house|at once", "quotes generated fairy tales"),
    ("README.md", "house|rooms?|wish(ed|es)?|wanted|behind", "quotes stories"),
)
"""(file, regular expression of the words allowed there, reason)."""

GAP = r"(?:[ _-]|\s+(?:#\s*)?)"
"""Between the words of a phrase: in a sentence, in an identifier, or across the lines of a comment."""
WORDS = {
    re.compile(rf"(?<![A-Za-z])(?:{phrase.replace(' ', GAP)})(?![A-Za-z])", re.IGNORECASE): advice
    for phrase, advice in GLOSSARY.items()
}


def files() -> list[str]:
    """The project's text files, relative to its root."""
    tops = [ROOT / name for name in CHECKED]
    paths = [path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])]
    names = [path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and path.suffix in SUFFIXES]
    return sorted(names)


def findings(name: str, text: str) -> Iterator[str]:
    """One line for each forbidden phrase in a file: place, phrase, what to write."""
    allowed = [re.compile(f"(?:{words})", re.IGNORECASE) for file, words, _ in EXCEPTIONS if fnmatch(name, file)]
    for pattern, advice in WORDS.items():
        for match in pattern.finditer(text):
            found = re.sub(GAP, " ", match.group())
            if not any(words.fullmatch(found) for words in allowed):
                yield f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {found!r}: write {advice}"


@pytest.mark.parametrize("name", files())
def test_a_file_uses_the_vocabulary_of_the_field(name):
    found = [*findings("", name), *findings(name, (ROOT / name).read_text(encoding="utf-8"))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "CHANCES, SLOPES = range(2)",
        "def lies_flat(x): ...",
        "of 4,096 tokens at\n    # once (more do not pay)",
        "TOKENS_AT_ONCE = 8192",
        "the processor multiplies nothing narrower natively",
        "'--foo' belongs to no flag",
        "what the model predicts are no numbers",
        "def room(): ...",
        "weights that the function hands on",
        "python scripts/check_floors.py",
        "the run goes on, and is compiled anew",
    ],
)
def test_private_vocabulary_is_found_in_prose_and_identifiers(text):
    assert list(findings("docs/x.md", text))


@pytest.mark.parametrize(
    "text",
    [
        "the loss floor of the corpus; 0.7 above the floor",
        "translated to machine code by LLVM",
        "samples drawn from N(0, 1); draw a figure; drawing",
        "the scores in descending order",
        "a warehouse, a mushroom, longhand, recommended, unwanted",
        "by chance; a share of the average",
    ],
)
def test_standard_terms_and_ordinary_english_pass(text):
    assert not list(findings("docs/x.md", text))


def test_every_exception_is_needed():
    for file, _, reason in EXCEPTIONS:
        assert reason
        assert any(fnmatch(path.relative_to(ROOT).as_posix(), file) for path in ROOT.glob(file)), file
