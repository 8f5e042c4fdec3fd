"""Training speed and memory on this machine. Tables in Markdown, numbers in JSON.

    python benchmarks/train.py                        # against transformers, at all shapes: about an hour
    python benchmarks/train.py --baseline CHECKOUT    # against an older llamita
    python benchmarks/train.py --busy                 # idle, and next to a process that keeps one core busy

docs/benchmarks.md describes the method.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.command import Parser, UsageError, run_command
from common.markdown import paragraph
from training.baseline import ROUNDS as BASELINE_ROUNDS
from training.full_run import FullRunSetting
from training.peers import Setting
from training.report import Plan, report_baseline, report_busy, report_peers
from training.results_file import Results, check_writable, default_file, read_results
from training.shapes import CONTEXTS, choose_contexts, choose_shapes


def parser() -> Parser:
    """The command line."""
    flags = Parser(description="Training steps on the CPU, against peers, an older llamita, or a busy process.")
    add = flags.add_argument
    add("--shapes", nargs="+", default=[], metavar="NAME", help="names or numbers, such as 512x4 or 1; default: all")
    add("--contexts", nargs="+", type=int, metavar="LENGTH",
        help="more context lengths for the first shape; default: 256 1024 4096 if all shapes are measured")  # fmt: skip
    add("--rounds", type=int, help=f"rounds; default: 5, with --baseline {BASELINE_ROUNDS}")
    add("--threads", type=int, default=0, help="CPU threads; 0: llamita's choice")
    add("--json", type=Path, help="where to write the numbers; default: bench-train-DATE-TIME.json")
    add("--against", type=Path, help="an earlier such file, to list regressions")
    add("--baseline", type=Path, metavar="CHECKOUT", help="compare with the llamita of this checkout instead of peers")
    add("--busy", action="store_true",
        help="measure the first shape and 128x4, idle and next to a process that spins on one core")  # fmt: skip
    _add_peers(flags)
    _add_full_run(flags)
    return flags


def _add_peers(flags: Parser) -> None:
    group = flags.add_argument_group("peers")
    group.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT, to benchmark it too")
    group.add_argument("--litgpt", type=Path, help="a clone of LitGPT, to benchmark it too")
    group.add_argument("--no_compile", dest="compile", action="store_false",
                       help="do not compile the tuned peers, which takes a minute per shape")  # fmt: skip


def _add_full_run(flags: Parser) -> None:
    group = flags.add_argument_group("a full run")
    add = group.add_argument
    add("--end_to_end", action="store_true", help="also time a complete llamita train at the first shape")
    add("--max_steps", "--steps", type=int, default=FullRunSetting.max_steps, help="of that run; default: %(default)s")
    add("--every", type=int, default=FullRunSetting.every,
        help="steps between its evaluations, samples and checkpoints; default: %(default)s")  # fmt: skip
    add("--eval_sequences", type=int, help="windows of each evaluation; 0: all; default: llamita's")
    add("--sample_count", type=int, help="samples per evaluation; default: llamita's")


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmarks selected by `words` (default: the command line), line by line. Raises `UsageError`."""
    options = parser().parse(words)
    if options.baseline and (options.busy or options.end_to_end):
        raise UsageError("--baseline cannot be combined with --busy or --end_to_end")
    default_rounds = BASELINE_ROUNDS if options.baseline else Setting.rounds
    rounds = default_rounds if options.rounds is None else options.rounds
    setting = Setting(rounds, options.nanogpt, options.litgpt, options.compile, options.threads)
    setting.check(needs_peers=not options.baseline)
    contexts = options.contexts if options.contexts is not None else [] if options.shapes else CONTEXTS
    plan = Plan(choose_shapes(options.shapes), choose_contexts(contexts), setting, options.json or default_file())
    check_writable(plan.file)
    older = read_results(options.against) if options.against else None
    results = Results()
    for line in lines(plan, options, results):
        print(line, flush=True)
    for line in paragraph(results.compared(older)) if older else ():
        print(line, flush=True)
    print(f"\nwritten to {plan.file}")


def lines(plan: Plan, options: Namespace, results: Results) -> Iterator[str]:
    """The requested measurements, line by line."""
    if options.baseline:
        return report_baseline(plan, options.baseline, results)
    if options.busy:
        return report_busy(plan, results)
    return report_peers(plan, _full_run_setting(options, plan), results)


def _full_run_setting(options: Namespace, plan: Plan) -> FullRunSetting | None:
    if not options.end_to_end:
        return None
    sizes = options.max_steps, options.every, options.eval_sequences, options.sample_count
    setting = FullRunSetting(*sizes, threads=options.threads)
    setting.check(plan.shapes[0])
    return setting


if __name__ == "__main__":
    run_command(main)
