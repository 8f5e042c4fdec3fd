"""Which code computed a run, as [facts] of its config.toml holds it.

[facts]
code_digest = "9f2c…"             # of the code that computes the run now
[facts.code]                      # the same file by file, so that a change can be named
"model/llama.py" = "1b7e4d20c9aa"
[[facts.code_changes]]            # where the run went on with other code
step = 500                        # updates made before it
code_digest = "9f2c…"             # from there on
files = ["model/llama.py"]        # empty where a version of llamita that recorded no code began the run
"""

from collections.abc import Mapping
from typing import Any

from llamita.code_digest import changed_files, code_digest, name_files, running_code
from llamita.train.run_directory import RunDirectory


def code_facts(files: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a run that the code of `files` (as `file_digests` returns them) begins."""
    return {"code_digest": code_digest(files), "code": dict(files)}


def is_same_code(facts: Mapping[str, Any], files: Mapping[str, str]) -> bool:
    """Whether the run of `facts` is computed by the code of `files`."""
    return facts.get("code_digest") == code_digest(files)


def knows_code(facts: Mapping[str, Any]) -> bool:
    """Whether the run of `facts` recorded its code; older versions of llamita did not."""
    return "code_digest" in facts


def changed_since(facts: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
    """The files that differ from those the run of `facts` was computed by last; empty where it recorded none."""
    return changed_files(facts["code"], files) if knows_code(facts) else []


def recorded_code(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's facts that tells its code, as it is; empty where it recorded none."""
    return {name: facts[name] for name in ("code_digest", "code", "code_changes") if name in facts}


def record_code_change(directory: RunDirectory, facts: Mapping[str, Any], files: Mapping[str, str], step: int) -> None:
    """Add to config.toml that the code of `files` computes from `step` on, where that of `facts` is other code."""
    if is_same_code(facts, files):
        return
    change = {"step": step, "code_digest": code_digest(files), "files": changed_since(facts, files)}
    directory.add_facts({**code_facts(files), "code_changes": [*facts.get("code_changes", []), change]})


def can_begin_anew(directory: RunDirectory, facts: Mapping[str, Any], files: Mapping[str, str]) -> bool:
    """Whether nothing would be lost if other code began this run again: it has no checkpoint yet."""
    return not is_same_code(facts, files) and not directory.has_checkpoints()


def code_difference(facts: Mapping[str, Any]) -> str | None:
    """One line for who uses a run with other code than computed it; None where it is the same, or not known."""
    files = running_code()
    if not knows_code(facts) or is_same_code(facts, files):
        return None
    return f"note: the code has changed since this run was trained ({name_files(changed_since(facts, files))})"
