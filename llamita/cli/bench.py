"""`llamita bench tokenizer` and `llamita bench train`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from llamita.errors import UserError

if TYPE_CHECKING:
    from llamita.bench.shapes import Shape
    from llamita.bench.training import Setting
    from llamita.bench.training_file import Results

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


@app.command
def train(
    *,
    shapes: tuple[str, ...] = (),
    contexts: tuple[int, ...] | None = None,
    rounds: int = 5,
    nanogpt: Path | None = None,
    litgpt: Path | None = None,
    compile: bool = True,
    threads: int = 0,
    end_to_end: bool = False,
    steps: int = 400,
    every: int = 100,
    json: Path | None = None,
    against: Path | None = None,
) -> None:
    """Steps of training on the CPU, beside transformers as it comes and at its best; tables in Markdown.

    Parameters
    ----------
    shapes: tuple[str, ...]
        Names or numbers of the shapes to measure, such as 512x4 or 1; default: all five.
    contexts: tuple[int, ...]
        Further contexts for the first of the shapes; default: 256, 1024 and 4096 where all shapes are measured.
    rounds: int
        How often each is measured.
    nanogpt: Path
        The folder of a clone of nanoGPT, to show it too.
    litgpt: Path
        The folder of a clone of LitGPT, to show it too.
    compile: bool
        Compile peers at their best, which takes a minute a shape.
    threads: int
        CPU threads of each; 0: all cores.
    end_to_end: bool
        Also run `llamita train` at the first of the shapes, from its start to its end.
    steps: int
        Of that run.
    every: int
        Steps between its evaluations, samples and checkpoints.
    json: Path
        Where to keep the numbers; default: bench-train-DATE-TIME.json.
    against: Path
        Such a file, to be told what became slower since.
    """
    from llamita.bench.shapes import CONTEXTS, choose_contexts, choose_shapes
    from llamita.bench.training import Setting
    from llamita.bench.training_file import Results, check_writable, default_file, read_results

    chosen = choose_shapes(shapes)
    lengths = choose_contexts((() if shapes else CONTEXTS) if contexts is None else contexts)
    setting = Setting(rounds, nanogpt, litgpt, compile, threads)
    setting.check()
    old = read_results(against) if against else None
    file = json or default_file()
    check_writable(file)
    whole = (steps, every) if end_to_end else None
    if whole and min(whole) < 1:
        raise UserError(f"--steps {steps} --every {every}: both must be above 0")
    results = Results()
    _measure_training(chosen, lengths, setting, whole, results, file)
    if old:
        _print(results.compared(old))
    print(f"kept in {file}")


def _measure_training(
    shapes: "list[Shape]",
    contexts: list[int],
    setting: "Setting",
    whole: tuple[int, int] | None,
    results: "Results",
    file: Path,
) -> None:
    """Measure and print, and keep what there is after each part: all of it takes many minutes."""
    from llamita.bench import training_results as tables
    from llamita.bench.training import measure, measure_growth
    from llamita.bench.whole_run import WholeRunSetting, measure_whole_run

    longer = [shapes[0].with_context(length) for length in contexts]
    print(tables.header(), flush=True)
    for shape in dict.fromkeys([*shapes, *longer]):
        results.rows.append(measure(shape, setting))
        results.write(file)
        print(tables.row_line(results.rows[-1]), flush=True)
    _print(tables.notes(results.rows, setting.compiled))
    _print(tables.step_parts(results.rows))
    _print(tables.other_models(results.rows))
    if len(longer) > 1:
        results.growth = measure_growth(longer, setting)
        results.write(file)
        _print(tables.growth_lines(results.growth))
    if whole:
        run = WholeRunSetting(*whole, threads=setting.threads)
        results.whole_run = measure_whole_run(shapes[0], run)
        results.write(file)
        _print(tables.whole_run_lines(results.whole_run))


def _print(lines: Iterable[str]) -> None:
    """Print a table, an empty line before it."""
    text = "\n".join(lines)
    if text:
        print(f"\n{text}", flush=True)
