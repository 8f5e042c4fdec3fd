"""Which code computed a run, as [facts] of its config.toml holds it.

[facts]
code_digest = "9f2c…"             # of the code that computes the run now
[facts.code]                      # the same file by file, so that a change can be named
"model/llama.py" = "1b7e4d20c9aa"
[[facts.code_changes]]            # where the run continued with other code
step = 500                        # updates before the change
code_digest = "9f2c…"             # from there on
files = ["model/llama.py"]        # empty where a version of llamita that recorded no code began the run
"""

from collections.abc import Mapping
from typing import Any

from llamita.code_digest import changed_files, code_digest, name_files, running_code
from llamita.train.run_directory import RunDirectory


def code_facts(files: Mapping[str, str]) -> dict[str, Any]:
    """The facts about the code of a new run; `files` as `file_digests` returns them."""
    return {"code_digest": code_digest(files), "code": dict(files)}


def is_same_code(facts: Mapping[str, Any], files: Mapping[str, str]) -> bool:
    """Whether the code of `files` computed the run of `facts`."""
    return facts.get("code_digest") == code_digest(files)


def knows_code(facts: Mapping[str, Any]) -> bool:
    """Whether the run of `facts` recorded its code; older versions of llamita did not."""
    return "code_digest" in facts


def changed_since(facts: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
    """The files that have changed since the run of `facts` was last computed; empty if it recorded none."""
    return changed_files(facts["code"], files) if knows_code(facts) else []


def recorded_code(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about the code, unchanged; empty if the run recorded none."""
    return {name: facts[name] for name in ("code_digest", "code", "code_changes") if name in facts}


def record_code_change(directory: RunDirectory, facts: Mapping[str, Any], files: Mapping[str, str], step: int) -> None:
    """Record in config.toml that the code of `files` computes from `step` on, if it differs from that of `facts`."""
    if is_same_code(facts, files):
        return
    change = {"step": step, "code_digest": code_digest(files), "files": changed_since(facts, files)}
    directory.add_facts({**code_facts(files), "code_changes": [*facts.get("code_changes", []), change]})


def can_restart(directory: RunDirectory, facts: Mapping[str, Any], files: Mapping[str, str]) -> bool:
    """Whether other code may start this run from scratch: it has no checkpoint yet, so nothing is lost."""
    return not is_same_code(facts, files) and not directory.has_checkpoints()


def code_difference(facts: Mapping[str, Any]) -> str | None:
    """A note for using a run with other code than computed it; None if the code is the same, or unknown."""
    files = running_code()
    if not knows_code(facts) or is_same_code(facts, files):
        return None
    return f"note: the code has changed since this run was trained ({name_files(changed_since(facts, files))})"
