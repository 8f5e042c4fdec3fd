"""The documentation says what the code does."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from runs import cache, command

import gpu
import llamita.corpus.story_corpus
import tokenizer
import train
from llamita.config import ALIASES, SWITCHES

fixtures = (cache,)
ROOT = Path(__file__).parents[1]
COMMANDS = ["prepare", "train", "eval", "generate", "report", "presets", "ablate", "scaling"]
COMMANDS += ["tokenizer train", "tokenizer encode", "tokenizer decode"]
BENCHMARKS = train, tokenizer, gpu
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def script(name: str) -> ModuleType:
    """One of the scripts, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["write_configuration_page", "write_coming_from_page", "write_api_page"])
def test_a_page_that_is_written_from_the_code_is_current(name):
    module = script(name)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run python scripts/{name}.py"


@pytest.fixture
def flags(capsys) -> set[str]:
    """Every flag that some command, or a benchmark, takes."""
    for words in COMMANDS:
        assert command(*words.split(), "--help") == 0
    helps = [capsys.readouterr().out, *(module.parser().format_help() for module in BENCHMARKS)]
    found = re.findall(r"--([a-z][\w-]*)", "".join(helps))
    return {flag.replace("-", "_") for flag in found} | ALIASES.keys() | SWITCHES.keys() | {"help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_a_page_names_exists(flags, page):
    lines = page.read_text(encoding="utf-8").splitlines()
    ours = "\n".join(line for line in lines if not re.match(r" *(pip|uv) ", line))
    named = re.findall(r"(?<![\w-])--([a-z][\w-]*)", ours)
    unknown = {flag.replace("-", "_") for flag in named} - flags
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_preset_that_a_page_asks_for_exists(page):
    named = re.findall(r"--preset ([a-z][\w.-]*\w)", page.read_text(encoding="utf-8"))
    presets = {file.stem for file in (ROOT / "llamita" / "presets").glob("*.toml")}
    assert set(named) <= presets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_stars_mark_the_names_of_other_trainers_that_work_as_flags():
    """A star after a name of the left column, exactly if it is an alias or a switch of a flag in the next one."""
    page = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `") and line.count(" | ") > 1]
    assert len(rows) > 50
    for there, here, *_ in rows:
        flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w-]*)", here)}
        for name, star in re.findall(r"`(\w+)`(\\\*)?", there):
            own = {ALIASES.get(name)}.union(*SWITCHES.get(name, ()))
            assert bool(star) == bool(own & flags), name


def test_the_python_example_of_the_readme_runs_as_it_stands(monkeypatch, capsys):
    """In an empty folder, with fewer stories and steps and a smaller model: a test has seconds."""
    monkeypatch.setattr(llamita.corpus.story_corpus, "TRAINING_STORIES", 60)
    monkeypatch.setattr(llamita.corpus.story_corpus, "VALIDATION_STORIES", 10)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    smaller = re.sub(r"max_steps=\d+", "max_steps=3, vocab_size=300, hidden_size=16, threads=1", example)
    assert smaller != example
    exec(compile(smaller, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "step 3: validation loss" in printed
