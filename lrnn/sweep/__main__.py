"""Train a grid of models: python -m lrnn.sweep --config conf/sweeps/parity.yaml

Each run is what one `python -m lrnn.fit` does; several train side by side. Finished runs are kept and interrupted runs
are resumed, so the same command does what is left.
"""

import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
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
from lrnn.runtime.config_kind import refuse_run_configs
from lrnn.runtime.errors import ConfigError, check_at_least
from lrnn.sweep.attempt import Attempt
from lrnn.sweep.device import find_devices
from lrnn.sweep.grid import Block, check_folder, claim_folder, make_cells, matches
from lrnn.sweep.mps import shared_gpus
from lrnn.sweep.schedule import Schedule


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
        run_dir: Folder of all runs. It may hold runs of an earlier sweep, if that had the same arguments for each cell
            that both have.
        cells: Blocks of models and tasks. Each model of a block is trained on each task of the block.
        learning_rates: Learning rates of the blocks that have none of their own.
        seeds: Seeds of the blocks that have none of their own. A seed decides initialisation and training data.
        arguments: Arguments of python -m lrnn.fit for every run.
        accelerator: Kind of device to train on.
        devices: Number of GPUs (of those in CUDA_VISIBLE_DEVICES) or CPU cores. Defaults to all.
        runs_per_device: Number of runs that train on a device at the same time. Small models share a GPU well if their
            memory fits and NVIDIA's MPS is installed, which the sweep then starts. A core has no room for a second run.
        only: Name of the cells to train, "MODEL on TASK", or of the runs, "MODEL on TASK, rate R, seed S". A * stands
            for any text, as in "DeltaNet * on parity" or "*, seed 0".
        dry_run: Whether to print the commands of the unfinished runs instead of training them.
    """
    check_at_least(1, devices=devices, runs_per_device=runs_per_device)
    grid = make_cells(cells, learning_rates, seeds, arguments, accelerator)
    every_run = [run for cell in grid for run in cell.runs(run_dir)]
    runs = [run for run in every_run if matches(run.cell.name, only) or matches(run.name, only)]
    if not runs:
        names = ", ".join(cell.name for cell in grid)
        raise ConfigError(f"only: no cell and no run matches {only}; cells: {names}; a run: {every_run[0].name}")
    unfinished = [run for run in runs if run.result() is None]
    if dry_run:
        check_folder(Path(run_dir), grid)
        for run in unfinished:
            print(run.command())
        return
    slots = find_devices(accelerator, devices, runs_per_device)
    claim_folder(Path(run_dir), grid)
    console, begin = Console(highlight=False), time.perf_counter()
    if len(unfinished) < len(runs):
        console.print(f"{len(runs) - len(unfinished)} of {len(runs)} runs are finished already")
    schedule = Schedule(unfinished, slots, runs_per_device)
    with ExitStack() as stack:
        if accelerator == "gpu" and runs_per_device > 1 and unfinished:
            console.print(stack.enter_context(shared_gpus(slots[0].answers)))
        _train(schedule, len(runs), console)
    console.print(f"{len(schedule.done)} runs, {time.perf_counter() - begin:.0f} s")
    if left := [*schedule.failed, *schedule.waiting]:
        for run in left:
            reason = schedule.failed.get(run, "no GPU is left")
            console.print(f"{run.name}: {reason} ({run.beside('.log')})", markup=False, soft_wrap=True)
        raise ConfigError(f"{len(left)} of {len(runs)} runs are missing: {'; '.join(run.name for run in left)}")


def _train(schedule: Schedule, total: int, console: Console) -> None:
    """Train until nothing is left to do, with a progress bar for each run."""
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
                    progress.update(bars[attempt], completed=attempt.step, total=attempt.steps)
                done, failed = len(schedule.done), len(schedule.failed)
                counts = f"{kept + done} done, {len(schedule.running)} running, {failed} failed"
                progress.update(everything, completed=kept + done + failed, description=counts)
                time.sleep(0.2)
        except BaseException:
            ends = "a run in training leaves a checkpoint, a run in its last evaluation finishes it"
            console.print(f"stopping: {ends}", soft_wrap=True)
            schedule.stop()
            raise
        finally:
            schedule.close()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    # with a handler here, the runs don't ignore these signals, as the processes of a background job would
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command(sweep, "lrnn.sweep", refuse_run_configs)
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it stopped")


if __name__ == "__main__":
    main()
