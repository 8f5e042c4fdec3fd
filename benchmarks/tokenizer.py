"""Benchmark llamita's tokenizer (encode, decode, train) against tiktoken, tokenizers and rustbpe.

    python benchmarks/tokenizer.py --data fairytales.txt

Prints a table in Markdown; docs/benchmarks.md describes the method.
"""

from collections.abc import Sequence
from pathlib import Path

from common.command import Parser, UsageError, run_command


def parser() -> Parser:
    """The command line."""
    flags = Parser(description="Encoding, decoding and training, compared with tiktoken, tokenizers and rustbpe.")
    add = flags.add_argument
    add("--data", type=Path, help="an English text; default: built-in stories")
    add("--multilingual", type=Path, help="a text in many scripts; default: this machine's message catalogues")
    add("--gpt2", default="gpt2", help="the folder of GPT-2's vocabulary and merges; default: downloaded once")
    add("--rounds", type=int, default=5, help="rounds; default: %(default)s")
    return flags


def main(words: Sequence[str] | None = None) -> None:
    """Print the table, row by row. Raises `UsageError`."""
    options = parser().parse(words)
    if options.rounds < 1:
        raise UsageError(f"--rounds is {options.rounds}, but must be above 0")
    from tokenization import texts
    from tokenization.measurements import HEADER, Setting, measure

    english, multilingual = texts.english(options.data), texts.multilingual(options.multilingual)
    setting = Setting(english, texts.code(), multilingual, options.gpt2, options.rounds)
    for name, text in setting.texts().items():
        print(f"{name}: {len(text.encode('utf-8')) / 1e6:.1f} MB")
    if setting.multilingual is None:
        print("multilingual: skipped, too few message catalogues on this machine; give --multilingual FILE")
    print(f"\n{HEADER}", flush=True)
    for row in measure(setting):
        print(row, flush=True)


if __name__ == "__main__":
    run_command(main)
