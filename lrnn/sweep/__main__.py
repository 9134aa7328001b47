"""Train a grid of models: python -m lrnn.sweep --config conf/paper/table3.yaml

Each run is one `python -m lrnn.fit`, several side by side. Finished runs are kept, and interrupted ones go on where
they stopped: the same command, again, does what is left.
"""

import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError
from lrnn.sweep.grid import Block, claim_folder, make_cells
from lrnn.sweep.mps import shared_gpus
from lrnn.sweep.schedule import Attempt, Schedule, find_devices


def sweep(
    run_dir: str,
    cells: Sequence[Block],
    learning_rates: Sequence[float],
    seeds: Sequence[int] = (0, 1, 2),
    arguments: str = "",
    accelerator: Literal["cpu", "gpu"] = "gpu",
    devices: int | None = None,
    runs_per_device: int = 1,
    only: str = "*",
    dry_run: bool = False,
) -> None:
    """Train every model on every task with every learning rate and seed.

    Args:
        run_dir: folder of all runs; one made by another grid is refused, one with fewer cells, rates or seeds is not.
        cells: blocks of models and tasks; each model of a block is trained on each task of it.
        learning_rates: of every cell whose block has none of its own, which cannot be changed from the command line.
        seeds: of the initialisation and the training data, likewise.
        arguments: of python -m lrnn.fit, for every run.
        accelerator: what to train on.
        devices: how many GPUs (of those in CUDA_VISIBLE_DEVICES) or cores to use; all when absent.
        runs_per_device: runs that share a GPU or a core. Small models share a GPU well, as long as their memory fits,
            if NVIDIA's MPS is there, which is then started. A core has nothing to spare.
        only: train the cells of this name alone, "MODEL on TASK", or the runs, "MODEL on TASK, rate R, seed S"; with *
            for anything, as in "DeltaNet * on parity" or "*, seed 0".
        dry_run: print the commands of the runs that are not finished, and do nothing.
    """
    for name, value in (("devices", devices), ("runs_per_device", runs_per_device)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: must be at least 1, got {value}")
    grid = make_cells(cells, learning_rates, seeds, f"{arguments} --trainer.accelerator={accelerator}")
    pattern = only.replace("[", "[[]")
    every_run = [run for cell in grid for run in cell.runs(run_dir)]
    runs = [run for run in every_run if fnmatchcase(run.cell.name, pattern) or fnmatchcase(run.name, pattern)]
    if not runs:
        names = ", ".join(cell.name for cell in grid)
        raise ConfigError(f"only: no cell and no run is called {only}; there are {names}, and {every_run[0].name}")
    unfinished = [run for run in runs if run.result() is None]
    if dry_run:
        for run in unfinished:
            print(run.command())
        return
    slots = find_devices(accelerator, devices, runs_per_device)
    claim_folder(Path(run_dir), grid)
    console, begin = Console(highlight=False), time.perf_counter()
    if len(unfinished) < len(runs):
        console.print(f"{len(runs) - len(unfinished)} of {len(runs)} runs are kept from before")
    schedule = Schedule(unfinished, slots, runs_per_device)
    with ExitStack() as stack:
        if accelerator == "gpu" and runs_per_device > 1 and unfinished:
            console.print(stack.enter_context(shared_gpus(slots[0].answers)))
        _train(schedule, len(runs), console)
    console.print(f"{len(schedule.done)} runs, {time.perf_counter() - begin:.0f} s")
    if left := [*schedule.failed, *schedule.waiting]:
        for run in left:
            reason = schedule.failed.get(run, "no GPU was left")
            console.print(f"{run.name}: {reason} ({run.beside('.log')})", markup=False, soft_wrap=True)
        raise ConfigError(f"{len(left)} of {len(runs)} runs are missing: {'; '.join(run.name for run in left)}")


def _train(schedule: Schedule, total: int, console: Console) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    kept = total - len(schedule.waiting)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, speed_estimate_period=86400
    ) as progress:
        everything = progress.add_task("", total=total, completed=kept)
        bars: dict[Attempt, TaskID] = {}
        try:
            while schedule.busy:
                for line in schedule.tick():
                    console.print(line, markup=False, soft_wrap=True)
                for attempt in bars.keys() - set(schedule.running):
                    progress.remove_task(bars.pop(attempt))
                for attempt in schedule.running:
                    if attempt not in bars:
                        bars[attempt] = progress.add_task(escape(attempt.run.name), total=None)
                done, failed = len(schedule.done), len(schedule.failed)
                counts = f"{kept + done} done, {len(schedule.running)} running, {failed} failed"
                progress.update(everything, completed=kept + done + failed, description=counts)
                time.sleep(0.2)
        except BaseException:
            console.print("stopping: a run in training leaves a checkpoint, one in evaluation ends first")
            schedule.stop()
            raise


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    # set here, neither is ignored in the runs, as in those of a background job it would be
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command(sweep, "lrnn.sweep")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it stopped")


if __name__ == "__main__":
    main()
