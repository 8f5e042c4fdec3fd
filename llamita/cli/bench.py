"""`llamita bench tokenizer` and `llamita bench train`."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from llamita.config import ExecutionConfig

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
    max_steps: int = 400,
    every: int = 100,
    eval_sequences: int | Literal["auto"] = ExecutionConfig.eval_sequences,
    sample_count: int = ExecutionConfig.sample_count,
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
    max_steps: int
        Of that run.
    every: int
        Steps between its evaluations, samples and checkpoints.
    eval_sequences: int | Literal["auto"]
        Validation windows of each of its evaluations; 0: all.
    sample_count: int
        Samples that it draws each time.
    json: Path
        Where to keep the numbers; default: bench-train-DATE-TIME.json.
    against: Path
        Such a file, to be told what became slower since.
    """
    from llamita.bench.shapes import CONTEXTS, choose_contexts, choose_shapes
    from llamita.bench.training import Setting
    from llamita.bench.training_file import check_writable, default_file, read_results
    from llamita.bench.training_report import Plan, report
    from llamita.bench.whole_run import WholeRunSetting

    setting = Setting(rounds, nanogpt, litgpt, compile, threads)
    setting.check()
    chosen = choose_shapes(shapes)
    lengths = choose_contexts((() if shapes else CONTEXTS) if contexts is None else contexts)
    whole = WholeRunSetting(max_steps, every, eval_sequences, sample_count, threads=threads) if end_to_end else None
    if whole:
        whole.check(chosen[0])
    plan = Plan(chosen, lengths, setting, whole, json or default_file())
    check_writable(plan.file)
    for line in report(plan, read_results(against) if against else None):
        print(line, flush=True)
