"""The documentation says what the code does."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from runs import cache, command

import llamita.corpus.story_corpus
import tokenizer
import train
from llamita.config import ALIASES

fixtures = (cache,)
ROOT = Path(__file__).parents[1]
COMMANDS = ["prepare", "train", "eval", "generate", "presets"]
COMMANDS += ["tokenizer train", "tokenizer encode", "tokenizer decode"]
BENCHMARKS = train, tokenizer
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def script(name: str) -> ModuleType:
    """One of the scripts, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["write_configuration_page", "write_api_page"])
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
    return {flag.replace("-", "_") for flag in found} | ALIASES.keys() | {"help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_a_page_names_exists(flags, page):
    named = re.findall(r"(?<![\w-])--([a-z][\w-]*)", page.read_text(encoding="utf-8"))
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


def test_of_other_trainers_names_those_are_marked_that_work_as_flags():
    """A star behind a name of the left column, exactly where it is an alias of a flag that the next one names."""
    page = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    for there, here, *_ in rows:
        flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w-]*)", here)}
        for name, star in re.findall(r"`(\w+)`(\\\*)?", there):
            assert bool(star) == (ALIASES.get(name) in flags), name


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
