"""Which of a command's directories its run is in: the one that the code of today computed, so none that it did not.

A command has a directory of its own, `runs/<name>-<hash>` or `--output_dir`, and, after edits of the code, numbered
ones beside it: `<directory>-2`, `<directory>-3`, … The first of these rules that fits decides:

1. none has a run: begin in the command's own;
2. the code of today computed one of them: resume that;
3. the newest one has no checkpoint, and nobody trains there: begin it anew;
4. `--new`: begin the next number (when the command is repeated, rule 2 finds it);
5. the newest one did not record its code (older versions), or `--allow_changed_code`: resume it, with a note;
6. refuse, and name what has changed and the two ways on.
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
from llamita.train.recorded_code import can_begin_anew, changed_since, is_same_code, knows_code
from llamita.train.run_directory import RunDirectory


def choose_directory(config: RunConfig, data: Dataset, processes: Processes, display: Display) -> RunDirectory:
    """The directory of the run that `config` describes; the main process decides for all.

    Raises `UserError` where `--output_dir` holds a run of another identity, and where other code computed the run.
    """
    base = Path(config.run.output_dir or default_directory(config, data))
    base = base if base.name else base.resolve()  # "." has no name to number
    number = 1
    if processes.is_main:
        runs = runs_of_command(base, config, data)
        number = choose_number(runs, running_code(), config.run, display) or next_number(base, runs)
    return RunDirectory(numbered(base, int(processes.max(number))))


def numbered(base: Path, number: int) -> Path:
    """The directory with this number of the command whose own is `base`, which is number 1."""
    return base if number == 1 else base.with_name(f"{base.name}-{number}")


def runs_of_command(base: Path, config: RunConfig, data: Dataset) -> dict[int, RunDirectory]:
    """Number -> run, of the runs of this command, oldest first.

    Raises `UserError` where the command's own directory holds a run of another identity; a numbered one that does is
    not of this command.
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
    """Whether a numbered directory was begun by this command, and not by one that named it."""
    try:
        if differences_of_identity(config, data, directory):
            return False
        # A default directory is named by its identity, so whatever is numbered beside it is of the same command.
        named = directory.config().run.output_dir
        return not config.run.output_dir or Path(named).name == Path(config.run.output_dir).name
    except UserError:  # damaged, and not ours to mend
        return False


def choose_number(
    runs: Mapping[int, RunDirectory], files: Mapping[str, str], execution: ExecutionConfig, display: Display
) -> int | None:
    """The number of the directory to use, of the command's `runs` (oldest first); None for the next that is free.

    `files` is the code of today, as `file_digests` returns it. Raises `UserError` where the user has to decide.
    """
    if not runs:
        return 1
    same = [number for number, run in runs.items() if is_same_code(run.facts(), files)]
    if same:
        return same[-1]
    newest, directory = list(runs.items())[-1]
    facts = directory.facts()
    if can_begin_anew(directory, facts, files) and not directory.is_held():
        return newest
    if execution.new:
        return None
    if not knows_code(facts):
        display.say(f"note: {directory.path} does not say which code computed it so far; going on with that of today")
        return newest
    changed = name_files(changed_since(facts, files))
    if not execution.allow_changed_code:
        raise UserError(
            f"{directory.path}: the code has changed since this run ({changed}): begin another with --new, or go on "
            "here with --allow_changed_code"
        )
    display.say(f"note: {directory.path} goes on with changed code ({changed})")
    return newest


def next_number(base: Path, runs: Mapping[int, RunDirectory]) -> int:
    """The first number after those of `runs` whose directory is not there, or empty."""
    number = max(runs) + 1
    while _is_used(numbered(base, number)):
        number += 1
    return number


def _is_used(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    return any(not entry.name.startswith(".") for entry in path.iterdir())  # a killed start leaves a hidden .lock
