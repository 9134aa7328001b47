"""What the README shows can be typed, and the files it names are there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from jsonargparse import auto_cli, capture_parser

from data.text.prepare import prepare
from lrnn.export.__main__ import export
from lrnn.fit import FitCLI
from lrnn.sweep.__main__ import sweep
from lrnn.sweep.grid import make_cells
from lrnn.sweep.table import table

ROOT = Path(__file__).parent.parent
README = "\n".join((ROOT / name).read_text() for name in ("README.md", "conf/README.md"))
CODE = "\n".join(re.findall(r"```(?:sh|python)?\n(.*?)```", README, re.DOTALL))


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"^make ([a-z-]+)", CODE, re.MULTILINE))
    assert {"parity", "test"} <= shown <= targets


def test_fit_commands_parse(monkeypatch, random_shards, tmp_path):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^(?:\.venv/bin/)?(?:python|torchrun .*) -m lrnn\.fit (.*)$", CODE, re.MULTILINE)
    assert commands
    for i, command in enumerate(commands):
        arguments = shlex.split(command, comments=True)
        resume = "--resume=true" in arguments
        arguments = [argument for argument in arguments if argument != "--resume=true"]
        if any("pretrain" in argument for argument in arguments):
            arguments += [f"--data.shards={random_shards}", "--trainer.num_nodes=1", "--trainer.devices=1"]
        with torch.device("meta"):
            cli = FitCLI([*arguments, f"--run_dir={tmp_path}/{i}", "--trainer.accelerator=cpu"])
        assert cli.model and not (resume and cli.config.resume)


def test_prepare_commands_parse():
    parser = capture_parser(lambda: auto_cli(prepare))
    commands = re.findall(r"^python -m data\.prepare (.*)$", CODE, re.MULTILINE)
    assert commands
    for command in commands:
        parser.parse_args(shlex.split(command, comments=True))


def test_export_commands_parse():
    parser = capture_parser(lambda: auto_cli(export, as_positional=False))
    commands = re.findall(r"^python -m lrnn\.export (.*)$", CODE, re.MULTILINE)
    assert commands
    for command in commands:
        parser.parse_args(shlex.split(command, comments=True))


def test_sweep_commands_parse(monkeypatch):
    monkeypatch.chdir(ROOT)
    parser = capture_parser(lambda: auto_cli(sweep, as_positional=False))
    commands = re.findall(r"^python -m lrnn\.sweep (.*)$", CODE, re.MULTILINE)
    assert commands
    for command in commands:
        config = parser.parse_args(shlex.split(command, comments=True))
        cells = make_cells(config.cells, config.learning_rates, config.seeds, config.arguments)
        runs = sum(len(cell.learning_rates) * len(cell.seeds) for cell in cells)
        assert f"{runs} runs" in CODE


def test_table_commands_parse():
    parser = capture_parser(lambda: auto_cli(table, as_positional=False))
    for command in re.findall(r"^python -m lrnn\.table (.*)$", CODE, re.MULTILINE):
        parser.parse_args(shlex.split(command, comments=True))


FILES = re.findall(r"(?:\]\(|`)((?:conf|lrnn|data|callbacks|tests|results)/[\w/.-]+)(?:\)|`)", README)


@pytest.mark.parametrize("name", sorted(set(FILES)))
def test_files_exist(name):
    assert (ROOT / name).exists()
