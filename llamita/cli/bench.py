"""`llamita bench tokenizer`."""

from pathlib import Path

from cyclopts import App

app = App(name="bench", help="Measure llamita beside its peers, in turns, on this machine.")


@app.command
def tokenizer(
    *, data: Path | None = None, multilingual: Path | None = None, gpt2: str = "gpt2", rounds: int = 5
) -> None:
    """Encoding, decoding and learning, beside tiktoken, tokenizers and rustbpe; a table in Markdown.

    Parameters
    ----------
    data: Path
        An English text; default: built-in stories.
    multilingual: Path
        A text in many scripts; default: the message catalogues of this machine, where they are enough.
    gpt2: str
        The folder of GPT-2's vocabulary and merges; default: downloaded once, or from the cache.
    rounds: int
        How often each is measured.
    """
    from llamita.bench import texts
    from llamita.bench.tokenizer import HEADER, Setting, measure
    from llamita.errors import UserError

    if rounds < 1:
        raise UserError(f"--rounds is {rounds}, but must be above 0")
    setting = Setting(texts.english(data), texts.code(), texts.multilingual(multilingual), gpt2, rounds)
    for name, text in setting.texts().items():
        print(f"{name}: {len(text.encode('utf-8')) / 1e6:.1f} MB")
    if setting.multilingual is None:
        print("multilingual: left out, there are too few message catalogues here; give --multilingual FILE")
    print(f"\n{HEADER}", flush=True)
    for row in measure(setting):
        print(row, flush=True)
