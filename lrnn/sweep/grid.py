"""The runs of a sweep: each model on each task, with each learning rate and seed.

The names of models and tasks stand for arguments of `python -m lrnn.fit`. Configuration files are stacked: those of the
model come first, then those of the task, then those of the whole sweep. Options come after all files. Those of the
model come last, so that they override the others:

    --config=MODEL --config=TASK --config=SWEEP  --sweep_option ... --task_option ... --model_option ...

The folder of a sweep holds `grid.json`, and <task>/<model>/lr<rate>_seed<seed> for each run. That is the folder which
`lrnn.fit` makes. Beside it are the run's .log, its .lock, and its .json with the seconds that the run took.
"""

import fcntl
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from lrnn.runtime.errors import ConfigError

RESULT = "length_generalization.json"  # in the folder of a run that is finished

OVERRIDDEN = {  # option of a run -> the sweep's own option that sets it
    "model.learning_rate": "learning_rates",
    "seed_everything": "seeds",
    "run_dir": "run_dir",
    "trainer.accelerator": "accelerator",
}


@dataclass
class Block:
    """Models and tasks: each of the models is trained on each of the tasks.

    Args:
        models: Names of models, each with the arguments of python -m lrnn.fit that it stands for.
        tasks: Names of tasks, each with the arguments of python -m lrnn.fit that it stands for.
        learning_rates: Learning rates of this block. Defaults to those of the sweep.
        seeds: Seeds of this block. Defaults to those of the sweep.
    """

    models: dict[str, str]
    tasks: dict[str, str]
    learning_rates: list[float] | None = None
    seeds: list[int] | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of the table: a model on a task, with the arguments that all of its runs share."""

    model: str
    task: str
    arguments: tuple[str, ...]
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.model} on {self.task}"

    @property
    def folder(self) -> Path:
        return Path(*(re.sub(r"[^\w-]+", "_", name.lower()).strip("_") for name in (self.task, self.model)))

    def runs(self, root: str | Path) -> list["Run"]:
        return [Run(self, rate, seed, Path(root)) for rate in self.learning_rates for seed in self.seeds]

    def recipe(self) -> dict[str, Any]:
        """Return what decides the outcome besides learning rate and seed: the arguments and the content of the files.

        Raises:
            ConfigError: if a file is missing.
        """
        files = [argument.removeprefix("--config=") for argument in self.arguments if _is_file(argument)]
        for file in files:
            if not Path(file).is_file():
                raise ConfigError(f"cells: {self.name} names {file}, which does not exist")
        return {"arguments": list(self.arguments), "files": [yaml.safe_load(Path(file).read_text()) for file in files]}


@dataclass(frozen=True)
class Run:
    """One model to train; `root` is the sweep's folder."""

    cell: Cell
    learning_rate: float
    seed: int
    root: Path

    @property
    def name(self) -> str:
        return f"{self.cell.name}, rate {self.learning_rate:g}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.root / self.cell.folder / f"lr{self.learning_rate:g}_seed{self.seed}"

    def beside(self, suffix: str) -> Path:
        """Return the path of a file beside the run's folder, such as its .log."""
        return self.folder.with_name(self.folder.name + suffix)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def arguments(self) -> list[str]:
        """Return the arguments of `python -m lrnn.fit`."""
        return [
            *self.cell.arguments,
            f"--model.learning_rate={self.learning_rate}",
            f"--seed_everything={self.seed}",
            f"--run_dir={self.folder}",
        ]

    def command(self) -> str:
        return shlex.join(["python", "-m", "lrnn.fit", *self.arguments()])

    def result(self) -> dict[str, Any] | None:
        """Return what length generalization wrote at the end, or None if the run is not finished."""
        path = self.folder / RESULT
        return json.loads(path.read_text()) if path.is_file() else None

    def seconds(self) -> float | None:
        """Return how long the run was in training, over all attempts whose end a sweep saw; None if there is none."""
        path = self.beside(".json")
        return json.loads(path.read_text())["seconds"] if path.is_file() else None

    def add_seconds(self, seconds: float) -> None:
        self.beside(".json").write_text(json.dumps({"seconds": round((self.seconds() or 0) + seconds, 1)}) + "\n")

    def forget_seconds(self) -> None:
        self.beside(".json").unlink(missing_ok=True)


Grid = dict[Path, tuple[Cell, dict[str, Any]]]  # by folder: a cell and its recipe


def matches(name: str, pattern: str) -> bool:
    """Return whether the name of a cell or a run is the pattern, in which a * stands for any text."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def make_cells(
    blocks: Sequence[Block],
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    arguments: str,
    accelerator: str | None = None,
) -> list[Cell]:
    """Return the cells of all blocks.

    Args:
        blocks: Blocks of models and tasks.
        learning_rates: Learning rates of the blocks that have none of their own.
        seeds: Seeds of the blocks that have none of their own.
        arguments: Arguments of `python -m lrnn.fit` for all runs of the sweep.
        accelerator: Kind of device for all runs; that of their configurations when absent.

    Raises:
        ConfigError: if there is no cell, if a cell occurs twice, or if rates, seeds or arguments are malformed.
    """
    common = _split("arguments", arguments)
    if accelerator is not None:
        common.append(f"--trainer.accelerator={accelerator}")
    cells: dict[Path, Cell] = {}
    for block in blocks:
        for model, for_model in block.models.items():
            for task, for_task in block.tasks.items():
                files, options = _stack(_split("cells", for_model), _split("cells", for_task), common)
                rates, its_seeds = block.learning_rates or learning_rates, block.seeds or seeds
                cell = Cell(model, task, (*files, *options), tuple(rates), tuple(its_seeds))
                if cell.folder in cells:
                    raise ConfigError(f"cells: {cell.name} occurs twice")
                for name, values in (("learning_rates", rates), ("seeds", its_seeds)):
                    if not values or len(set(values)) < len(values):
                        raise ConfigError(f"{name}: must be different values, at least one, got {list(values)}")
                _check_folders(cell)
                cells[cell.folder] = cell
    if not cells:
        raise ConfigError("cells: must have at least one model and one task")
    return list(cells.values())


def _check_folders(cell: Cell) -> None:
    """Check that no two runs share a folder, whose name has six digits of the rate."""
    if len({run.folder for run in cell.runs("")}) < len(cell.runs("")):
        raise ConfigError(f"learning_rates: must differ in their first six digits, got {list(cell.learning_rates)}")


def _stack(model: Sequence[str], task: Sequence[str], common: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the configuration files and the options among these arguments, each in their order."""
    files = [argument for argument in (*model, *task, *common) if _is_file(argument)]
    return files, [argument for argument in (*common, *task, *model) if not _is_file(argument)]


def _split(key: str, text: str) -> list[str]:
    """Split the arguments that are the value of this key."""
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{key}: arguments must be written as in a shell, got {text} ({error})") from error
    for argument in arguments:
        option = re.match(r"--([\w.]+)\+?=", argument)
        if not option:
            raise ConfigError(f"{key}: arguments must be written --key=value, got {argument}")
        if own := OVERRIDDEN.get(option[1].replace(".init_args", "")):
            raise ConfigError(f"{key}: the sweep sets {option[1]} by its own option {own}, got {argument}")
    return arguments


def _is_file(argument: str) -> bool:
    return argument.startswith("--config=")


def claim_folder(root: Path, cells: Sequence[Cell]) -> None:
    """Add the cells to the folder's grid.json.

    Raises:
        ConfigError: if `check_folder` refuses.
    """
    ours = _with_recipes(root, cells)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / "grid.lock"):
        grid = _joined(root, ours)
        written = root / "grid.json.new"
        written.write_text(json.dumps([{**asdict(cell), "recipe": recipe} for cell, recipe in grid.values()], indent=1))
        os.replace(written, root / "grid.json")


def check_folder(root: Path, cells: Sequence[Cell]) -> None:
    """Check that the cells can be added to the folder, and write nothing.

    Raises:
        ConfigError: if the folder is not that of a sweep, has one of the cells with other arguments or files, or has a
            run whose folder one of these would share.
    """
    _joined(root, _with_recipes(root, cells))


def _with_recipes(root: Path, cells: Sequence[Cell]) -> Grid:
    """Return the cells with their recipes. Refuse a folder that is not that of a sweep, and files that do not exist."""
    names = [path.name for path in root.iterdir()] if root.exists() else []
    if names and not any(name.startswith("grid.") for name in names):
        raise ConfigError(f"run_dir: {root} exists, but is not the folder of a sweep; choose another folder")
    return {cell.folder: (cell, cell.recipe()) for cell in cells}


def _joined(root: Path, cells: Grid) -> Grid:
    """Return the cells of the folder and these cells."""
    path, grid = root / "grid.json", dict(cells)
    for before, recipe in _read(path) if path.exists() else ():
        cell, ours = grid.get(before.folder, (before, recipe))
        if ours != recipe:
            what = "arguments" if ours["arguments"] != recipe["arguments"] else "files"
            raise ConfigError(
                f"run_dir: {root} was written by another grid: {before.name} had other {what}; "
                "choose another folder, or delete this one"
            )
        union = replace(
            cell,
            learning_rates=tuple(dict.fromkeys((*before.learning_rates, *cell.learning_rates))),
            seeds=tuple(dict.fromkeys((*before.seeds, *cell.seeds))),
        )
        _check_folders(union)
        grid[before.folder] = union, recipe
    return grid


def read_folder(root: str | Path) -> list[Cell]:
    """Return the cells of all sweeps in this folder.

    Raises:
        ConfigError: if it is not the folder of a sweep.
    """
    path = Path(root, "grid.json")
    if not path.is_file():
        raise ConfigError(f"run_dir: {root} is not the folder of a sweep: it has no grid.json")
    return [cell for cell, _ in _read(path)]


def _read(path: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    for entry in json.loads(path.read_text()):
        rates, seeds = tuple(entry["learning_rates"]), tuple(entry["seeds"])
        yield Cell(entry["model"], entry["task"], tuple(entry["arguments"]), rates, seeds), entry["recipe"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, which the kernel releases even if this process is killed."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
