"""What the READMEs show can be typed, and the files that they name exist."""

import importlib.util
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
from jsonargparse import capture_parser

from lrnn.fit import FitCLI

ROOT = Path(__file__).parent.parent
FOLDERS = "conf", "lrnn", "data", "callbacks", "tests", "results"
READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
READMES += sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in READMES}


def code(text):
    """The lines of all fenced blocks of shell, continued lines joined."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join(block for language, block in blocks if language in ("", "sh")).replace("\\\n", " ")


def commands(text):
    """(module, arguments) of every `python -m module arguments` in fenced blocks.

    Substitutions $(...) are left out, and so are commands with a variable, which are no commands yet.
    """
    shown = re.sub(r"\$\(.*?\)", "", code(text))
    pattern = r"\b(?:python|torchrun [^\n]*?) -m ((?:lrnn|data)(?:\.\w+)*)\b([^\n;]*)"
    return [(module, rest.strip()) for module, rest in re.findall(pattern, shown) if "$" not in rest]


COMMANDS = [(name, *command) for name, text in TEXTS.items() for command in dict.fromkeys(commands(text))]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", TEXTS)
def test_make_targets_exist(name):
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"^\s*make ([a-z0-9-]+)", code(TEXTS[name]), re.MULTILINE))
    shown |= set(re.findall(r"`make ([a-z0-9-]+)", TEXTS[name]))
    assert shown <= targets


def test_the_front_readme_shows_the_main_commands():
    modules = {module for module, _ in commands(TEXTS["README.md"])}
    assert "lrnn.fit" in modules and "make parity" in TEXTS["README.md"]


@pytest.mark.parametrize("name", TEXTS)
def test_modules_exist(name):
    for module in re.findall(r"python -m ((?:lrnn|data)[\w.]*\w)", TEXTS[name]):
        assert importlib.util.find_spec(module), module


def parser_of(module):
    """The parser that `python -m module` makes."""
    package = importlib.util.find_spec(module).submodule_search_locations is not None
    return capture_parser(import_module(f"{module}.__main__" if package else module).main)


@pytest.mark.parametrize(("name", "module", "rest"), [command for command in COMMANDS if command[1] != "lrnn.fit"])
def test_commands_parse(name, module, rest, monkeypatch):
    monkeypatch.setattr("sys.argv", [module])
    parser_of(module).parse_args(shlex.split(rest, comments=True))


SWEEPS = [
    (name, rest) for name, module, rest in COMMANDS if module == "lrnn.sweep" and re.search(r"#.* \d+ runs", rest)
]


@pytest.mark.parametrize(("name", "rest"), SWEEPS)
def test_sweeps_have_as_many_runs_as_is_said(name, rest, monkeypatch, capsys, tmp_path):
    options = [*shlex.split(rest, comments=True), f"--run_dir={tmp_path}/sweep", "--dry_run=true"]
    monkeypatch.setattr("sys.argv", ["lrnn.sweep", *options])
    import_module("lrnn.sweep.__main__").main()
    assert f" {capsys.readouterr().out.count(' -m lrnn.fit ')} runs" in rest


@pytest.mark.parametrize(("name", "rest"), [(name, rest) for name, module, rest in COMMANDS if module == "lrnn.fit"])
def test_fit_commands_build(name, rest, random_shards, tmp_path):
    arguments = [argument for argument in shlex.split(rest, comments=True) if argument != "--resume=true"]
    if any("pretrain" in argument for argument in arguments):
        arguments += [f"--data.shards={random_shards}", "--trainer.num_nodes=1", "--trainer.devices=1"]
    has_tables = any("GroupWordProblem" in argument for argument in arguments)  # which a meta device cannot compute
    with torch.device("cpu" if has_tables else "meta"):
        assert FitCLI([*arguments, f"--run_dir={tmp_path}/run", "--trainer.accelerator=cpu"]).model


@pytest.mark.parametrize("name", TEXTS)
def test_files_exist(name):
    """Links lead from the README's folder; paths in backticks from there or from the root."""
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\((?!\w+://|#)([^)#\s]+)", TEXTS[name]):
        assert (folder / target).exists(), target
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]+)`", TEXTS[name]):
        assert (ROOT / path).exists() or (folder / path).exists(), path
