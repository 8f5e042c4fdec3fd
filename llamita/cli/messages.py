"""Messages about the command line: they name each flag as the user typed it, and suggest what was probably meant."""

import difflib
import math
import re
import sys
from functools import partial

from cyclopts import ArgumentCollection

from llamita.config import ALIASES, SWITCHES, TRUTH, GenerationConfig, field_tables
from llamita.config.other_trainers import command_hint, setting_hint

STRAY_HINTS = {
    "train": "name texts with --data, a TOML file with --config",
    "prepare": "name texts with --data, a TOML file with --config",
    "generate": "put a prompt of several words in quotes",
}


def print_note(note: str) -> None:
    """Print a note to standard error."""
    print(f"note: {note}", file=sys.stderr)


def parts(word: str) -> tuple[str, str, str | None]:
    """(name with underscores, "no-" or "", value after an equals sign) of a flag; the name is empty for other words."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--") or flag == "--":
        return "", "", None
    name = flag.removeprefix("--").replace("-", "_")
    is_negative = name.startswith("no_") and name not in SWITCHES  # no_cuda is a name
    return name.removeprefix("no_") if is_negative else name, "no-" if is_negative else "", value if equals else None


def typed_flags(words: list[str]) -> dict[str, str]:
    """llamita's name of each setting on the command line -> the flag as typed (without `no`), if that differs."""
    found = {}
    for word in words[: words.index("--") if "--" in words else None]:
        name, negative, _ = parts(word)
        typed = word.partition("=")[0]
        positive = "--" + typed.removeprefix("--")[len(negative) :]
        on, off = SWITCHES.get(name, ({ALIASES.get(name, name): None}, {}))
        found.update({own: positive for own in {**on, **off} if name and positive != f"--{own}"})
    return found


def as_typed(message: str, typed: dict[str, str]) -> str:
    """`message` with the flags that the user typed in place of llamita's names for them."""
    for own, flag in typed.items():
        # Without dashes, as in "max_steps is -1"; a single word only there, since it may be plain English elsewhere.
        bare = rf"(?<![\w/.\\-]){own}(?![\w/\\])" if "_" in own else rf"^{own}(?= is )"
        message = re.sub(rf"(?<![\w-])--(no-)?{own}\b|{bare}", partial(_renamed, flag), message)
    return message


def _renamed(flag: str, match: re.Match[str]) -> str:
    return f"--no-{flag.removeprefix('--')}" if match[1] else flag


def unknown_flag(typed: str, command: str, arguments: ArgumentCollection) -> str:
    """What to say about a flag that the command does not have."""
    name = parts(typed)[0]
    known = {name for argument in arguments for name in argument.names if name.startswith("--")}
    here, note = setting_hint(name)
    if here and not _command_of(name) and known.issuperset(re.findall(r"--\w+", here)):
        return f"unknown flag {typed}: {here} here" + (f" ({note})" if note else "")
    if other := _command_of(ALIASES.get(name, name)):
        return f"unknown flag {typed}: `llamita {command}` does not have it, `llamita {other}` does"
    aliases = {f"--{alias}" for alias, own in ALIASES.items() if f"--{own}" in known}
    near = difflib.get_close_matches(f"--{name}", sorted(known | aliases), n=1, cutoff=0.7)
    return f"unknown flag {typed}. " + (f"Did you mean {near[0]}?" if near else f"See `llamita {command} --help`")


def _command_of(name: str) -> str:
    """The command that has this setting; empty if none has."""
    if name in field_tables():
        return "train"
    return "generate" if name in GenerationConfig.__dataclass_fields__ else ""


def unknown_command(message: str, words: list[str]) -> str:
    """What to say about a command that does not exist: for scripts of other trainers, what it is here."""
    hint = command_hint(words[0])
    return f"{words[0]} is not a command; here it is: {hint}" if hint else message


def stray_word(stray: str, words: list[str], arguments: ArgumentCollection) -> str:
    """What to say about a value that no flag takes, where `words` is the command line."""
    flag = _flag_before_stray(words, arguments)
    if flag and stray.lower() in TRUTH and _takes(flag, arguments) == 0:
        name = flag.removeprefix("--").removeprefix("no-")
        return f"{flag} takes no value, so {stray!r} is one too many: --{name} is on, --no-{name} off"
    if flag and _takes(flag, arguments) == 1:
        return f"{flag} takes one value, so {stray!r} is one too many: quote a value with spaces, run once per value"
    hint = STRAY_HINTS.get(words[0], f"see `llamita {words[0]} --help`")
    return f"unexpected argument {stray!r}: {hint}"


def _flag_before_stray(words: list[str], arguments: ArgumentCollection) -> str:
    """The flag before the first word that neither a flag nor a positional argument takes; empty if there is none."""
    flag, left = "", sum(argument.index is not None for argument in arguments)
    for word in words[1:]:
        if word.startswith("--"):
            flag, equals, _ = word.partition("=")
            left = 0 if equals else _takes(flag, arguments)
        elif left <= 0:
            return flag
        else:
            left -= 1
    return ""


def _takes(flag: str, arguments: ArgumentCollection) -> float:
    """How many values a flag takes."""
    spelled = flag.replace("_", "-")  # as cyclopts names it outside of a call
    argument = next((a for a in arguments if spelled in (name.replace("_", "-") for name in a.names)), None)
    if argument is None or spelled.startswith("--no-"):
        return 0
    count, is_list = argument.token_count()
    return math.inf if is_list else count
