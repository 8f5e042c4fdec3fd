"""Which of a command's directories holds its run: one that the current code computed, never another.

A command has its own directory, `runs/<name>-<hash>` or `--output_dir`, and, after edits of the code, numbered
directories next to it: `<directory>-2`, `<directory>-3`, … The first rule that applies decides:

1. none has a run: start in the command's own directory;
2. the current code computed one of them: resume that one;
3. the newest one has no checkpoint, and no process trains there: start it from scratch;
4. `--new`: start in the next number (when the command is repeated, rule 2 finds it);
5. the newest one did not record its code (older versions), or `--allow_changed_code`: resume it, with a note;
6. refuse, and name the changed files and the two options.
"""

import glob
from collections.abc import Mapping
from pathlib import Path

from llamita.code_digest import name_files, running_code
from llamita.config import ExecutionConfig, RunConfig
from llamita.data import Dataset
from llamita.errors import UserError
from llamita.parallel import Processes
from llamita.train.display import Display
from llamita.train.identity import default_directory, differences_of_identity, require_same_identity
from llamita.train.recorded_code import can_restart, changed_since, is_same_code, knows_code
from llamita.train.run_directory import RunDirectory


def choose_directory(config: RunConfig, data: Dataset, processes: Processes, display: Display) -> RunDirectory:
    """The directory of the run that `config` describes; the main process decides for all processes.

    Raises `UserError` if `--output_dir` holds a run of another identity, or if other code computed the run.
    """
    base = Path(config.run.output_dir or default_directory(config, data))
    base = base if base.name else base.resolve()  # "." has no name to number
    number = 1
    if processes.is_main:
        runs = runs_of_command(base, config, data)
        number = choose_number(runs, running_code(), config.run, display) or next_number(base, runs)
    return RunDirectory(numbered(base, int(processes.max(number))))


def numbered(base: Path, number: int) -> Path:
    """The directory with this number; number 1 is `base` itself."""
    return base if number == 1 else base.with_name(f"{base.name}-{number}")


def runs_of_command(base: Path, config: RunConfig, data: Dataset) -> dict[int, RunDirectory]:
    """Number -> run, for the runs of this command, oldest first.

    Raises `UserError` if the command's own directory holds a run of another identity; a numbered directory with one
    belongs to another command.
    """
    own, runs = RunDirectory(base), dict[int, RunDirectory]()
    if own.exists():
        require_same_identity(config, data, own)
        runs[1] = own
    suffixes = (path.name.removeprefix(f"{base.name}-") for path in base.parent.glob(f"{glob.escape(base.name)}-*"))
    for number in sorted(int(suffix) for suffix in suffixes if suffix.isdecimal() and suffix[0] != "0"):
        directory = RunDirectory(numbered(base, number))
        if number > 1 and directory.exists() and _belongs(directory, config, data):
            runs[number] = directory
    return runs


def _belongs(directory: RunDirectory, config: RunConfig, data: Dataset) -> bool:
    """Whether this command started the run in a numbered directory, not another one with that --output_dir."""
    try:
        if differences_of_identity(config, data, directory):
            return False
        # A default directory is named after the identity, so its numbered directories belong to the same command.
        named = directory.config().run.output_dir
        return not config.run.output_dir or Path(named).name == Path(config.run.output_dir).name
    except UserError:  # damaged, and not of this command
        return False


def choose_number(
    runs: Mapping[int, RunDirectory], files: Mapping[str, str], execution: ExecutionConfig, display: Display
) -> int | None:
    """The number of the directory to use among the command's `runs` (oldest first); None for the next free one.

    `files` is the current code, as `file_digests` returns it. Raises `UserError` if the user has to decide.
    """
    if not runs:
        return 1
    same = [number for number, run in runs.items() if is_same_code(run.facts(), files)]
    if same:
        return same[-1]
    newest, directory = list(runs.items())[-1]
    facts = directory.facts()
    if can_restart(directory, facts, files) and not directory.is_held():
        return newest
    if execution.new:
        return None
    if not knows_code(facts):
        display.say(f"note: {directory.path} does not record which code computed it; continuing with the current code")
        return newest
    changed = name_files(changed_since(facts, files))
    if not execution.allow_changed_code:
        raise UserError(
            f"{directory.path}: the code has changed since this run ({changed}): start another run with --new, or "
            "continue this one with --allow_changed_code"
        )
    display.say(f"note: {directory.path} continues with changed code ({changed})")
    return newest


def next_number(base: Path, runs: Mapping[int, RunDirectory]) -> int:
    """The first number after those of `runs` whose directory is missing or empty."""
    number = max(runs) + 1
    while _is_used(numbered(base, number)):
        number += 1
    return number


def _is_used(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    return any(not entry.name.startswith(".") for entry in path.iterdir())  # a killed process leaves a .lock
