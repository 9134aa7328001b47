"""How a run differs from the protocol of the paper's table (Appendix E.1.1), which conf/sweeps/table3.yaml writes down.

Options that the paper does not state, such as AdamW's betas, are compared with what they are there. The precision,
which the paper does not state either, is not compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import ArgumentParser

from callbacks import CompileTraining, CosineWarmup
from lrnn.models import LanguageModel
from lrnn.sweep.grid import Block, Cell, make_cells

ROOT = Path(__file__).parents[2]
SWEEP = "conf/sweeps/table3.yaml"
CLASSES = {"model": LanguageModel, "data": L.LightningDataModule}
OPTIONS = {"trainer": L.Trainer, "schedule": CosineWarmup, "compile": CompileTraining}
TRAINER = ("gradient_clip_val", "gradient_clip_algorithm")  # the other options are compared apart, or do not matter
# compared apart, or without a part in training: the form of an op, and the evaluation
SKIPPED = {
    *("learning_rate", "batch_size", "form"),
    *("validation_samples", "test_samples", "evaluation_seed", "num_workers"),
}


def differences(model: str, task: str, configuration: Mapping[str, Any], rates: Sequence[float]) -> list[str]:
    """Return what differs from the paper, each in a few words.

    Args:
        model: name of the row in the paper's table.
        task: name of the task there.
        configuration: resolved configuration of a run of the cell. What it lacks is not compared.
        rates: learning rates that have been run. The paper takes the best of four.
    """
    cell = _cells().get((model, task))
    if cell is None:
        return [f"not compared, as {SWEEP} has no such cell"]
    paper = resolve(cell)
    found = [
        text.format(ours, expected)
        for text, value in (("{:,} steps, not {:,}", _steps), ("batches of {:,}, not {:,}", _batch))
        if (ours := value(configuration)) not in (None, expected := value(paper))
    ]
    for section in CLASSES:
        found += _options(configuration.get(section) or {}, paper[section])
    found += _differing(configuration.get("schedule") or {}, paper["schedule"])
    found += _differing(
        {name: value for name, value in _trainer(configuration).items() if name in TRAINER}, paper["trainer"]
    )
    if others := sorted(set(rates) - set(cell.learning_rates)):
        found.append(f"rates {', '.join(f'{rate:g}' for rate in others)}, not among the paper's")
    if (count := len(set(rates))) < len(cell.learning_rates):
        found.append(f"{count} learning rate{'s' if count > 1 else ''}, not {len(cell.learning_rates)}")
    return found


@cache
def _cells() -> dict[tuple[str, str], Cell]:
    """Return the cells of the paper's table, by model and task; none if lrnn was installed without its checkout."""
    if not (ROOT / SWEEP).is_file():
        return {}
    sweep = yaml.safe_load((ROOT / SWEEP).read_text())
    blocks = [Block(**block) for block in sweep["cells"]]
    cells = make_cells(blocks, sweep["learning_rates"], sweep["seeds"], sweep["arguments"])
    return {(cell.model, cell.task): cell for cell in cells}


@cache
def resolve(cell: Cell) -> dict[str, Any]:
    """Return the configuration of the cell's runs, with all defaults."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--run_dir")
    for section, options in OPTIONS.items():
        parser.add_class_arguments(options, section)
    for section, kind in CLASSES.items():
        parser.add_subclass_arguments(kind, section)
    arguments = [argument.replace("--config=", f"--config={ROOT}/") for argument in cell.arguments]
    return parser.parse_args(arguments).as_dict()


def _options(ours: Mapping[str, Any], paper: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences of two classes and of the options that both have."""
    if ours.get("class_path", paper["class_path"]) != paper["class_path"]:
        yield f"{ours['class_path']}, not {paper['class_path']}"
    options = {name: value for name, value in ours.get("init_args", {}).items() if name in paper["init_args"]}
    yield from _differing(options, paper["init_args"])


def _differing(ours: Mapping[str, Any], paper: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options that differ; one that the paper's configuration lacks is null there."""
    for name, value in ours.items():
        if name not in SKIPPED and _plain(value) != _plain(paper.get(name)):
            if name == "curriculum":  # too long to be shown
                yield "a length curriculum"
            else:
                yield f"{name} {_text(value)}, not {_text(paper.get(name))}"


def _steps(configuration: Mapping[str, Any]) -> int | None:
    return _trainer(configuration).get("max_steps")


def _trainer(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    return configuration.get("trainer") or {}


def _batch(configuration: Mapping[str, Any]) -> int | None:
    """Return the number of sequences in a step; a run of a sweep has one device."""
    size = configuration.get("data", {}).get("init_args", {}).get("batch_size")
    return size and size * _trainer(configuration).get("accumulate_grad_batches", 1)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):  # another class, such as that of the channel mixer
        return str(value.get("class_path", dict(value)))
    return f"{value:g}" if isinstance(value, float) else str(value)
