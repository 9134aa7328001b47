"""Sweeps, with a program in the place of lrnn.fit that takes no time, and every cell of ours as lrnn.fit takes it."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from lrnn.fit import FitCLI
from lrnn.runtime.errors import ConfigError
from lrnn.sweep import attempt as attempts
from lrnn.sweep.__main__ import main, sweep
from lrnn.sweep.attempt import Slot, begin
from lrnn.sweep.device import Device
from lrnn.sweep.grid import Block, Cell, claim_folder, make_cells, read_folder
from lrnn.sweep.protocol import resolve
from lrnn.sweep.schedule import Schedule

ROOT = Path(__file__).parents[2]
# with arguments it takes the place of lrnn.fit, without any that of lrnn.sweep.worker
FAKE_FIT = """
import json, os, signal, sys, time
from pathlib import Path
from lrnn.sweep.worker import serve

def fit(arguments, report=None):
    options = dict(argument[2:].split("=", 1) for argument in arguments)
    folder = Path(options["run_dir"])
    if "resume" not in options:
        folder.mkdir()  # fails if the folder exists, as lrnn.fit does

    def leave_a_checkpoint(*_):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints/last.ckpt").touch()
        sys.exit("Interrupt: stopped")

    signal.signal(signal.SIGINT, leave_a_checkpoint)
    with open(folder.parent / "started", "a") as file:
        file.write(f"{folder.name} {'resume' in options} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}\\n")
    if options.get("fails") == options["seed_everything"] or os.environ.get("CUDA_VISIBLE_DEVICES") == "lost":
        print("Traceback (most recent call last):\\nRuntimeError: out of order\\nfor help see elsewhere", flush=True)
        sys.exit(1)
    if options.get("dies") == options["seed_everything"]:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0 if "resume" in options else float(options.get("seconds", 0.05)))
    if options.get("unscored") != options["seed_everything"]:
        (folder / "length_generalization.json").write_text(json.dumps({"scaled_accuracy": 0.5}))

fit(sys.argv[1:]) if sys.argv[1:] else serve(fit)
"""
COMMAND = (sys.executable, "-c", FAKE_FIT)


@pytest.fixture(autouse=True)
def _fake_fit(monkeypatch):
    monkeypatch.setattr(attempts, "FIT", COMMAND)
    monkeypatch.setattr(attempts, "WORKER", COMMAND)
    monkeypatch.chdir(ROOT)


def make_cell(*arguments, seeds=(0, 1, 2), rates=(0.1,), model="Model [0, 1]"):
    return Cell(model, "task", arguments, rates, seeds)


def started(root, cell):
    """The runs that were started, each as [name, whether it was resumed, GPU, process]."""
    return [line.split() for line in (root / cell.folder / "started").read_text().splitlines()]


def run_to_the_end(*schedules):
    while any(schedule.busy for schedule in schedules):
        for schedule in schedules:
            schedule.tick()
        time.sleep(0.01)
    for schedule in schedules:
        schedule.close()


def wait_for(condition):
    while not condition():
        time.sleep(0.02)  # pytest-timeout ends a test that waits in vain


@pytest.mark.parametrize("gpu", [None, "0"])
def test_two_sweeps_at_once_train_each_run_once(gpu, tmp_path):
    cell = make_cell(seeds=tuple(range(8)))
    schedules = [Schedule(cell.runs(tmp_path / "sweep"), [Device(gpu), Device(gpu)]) for _ in range(2)]
    run_to_the_end(*schedules)
    runs = started(tmp_path / "sweep", cell)
    assert sorted(name for name, *_ in runs) == [f"lr0.1_seed{seed}" for seed in range(8)]
    assert all(len(schedule.done) == 8 and not schedule.failed for schedule in schedules)
    processes = {process for *_, process in runs}
    assert len(processes) == 8 if gpu else len(processes) <= 4
    assert all(run.seconds() >= 0.05 for run in cell.runs(tmp_path / "sweep"))


@pytest.mark.parametrize("gpu", [None, "0"])
def test_a_run_is_locked_until_the_process_that_trains_it_ends(gpu, tmp_path):
    cell = make_cell("--seconds=600", seeds=(0,))
    [run] = cell.runs(tmp_path / "sweep")
    slot = Slot(Device(gpu))
    first = begin(run, slot)
    wait_for(lambda: run.folder.exists())
    first.lock.close()  # this and closing the worker's input is all that happens to a run when its sweep is killed
    if slot.worker:
        slot.worker.dismiss()
    assert begin(run, Slot(Device(gpu))) is None
    first.process.kill()
    first.process.wait()
    other = Slot(Device(gpu))
    second = begin(run, other)
    second.process.kill()
    second.process.wait()
    second.close()
    for worker in filter(None, (slot.worker, other.worker)):
        worker.close()


def test_a_worker_finishes_its_run_when_the_sweep_is_killed(tmp_path):
    [run] = make_cell("--seconds=0.5", seeds=(0,)).runs(tmp_path / "sweep")
    slot = Slot(Device(None))
    attempt = begin(run, slot)
    wait_for(lambda: run.folder.exists())
    attempt.lock.close()
    with closing(slot.worker):
        slot.worker.process.stdout.close()  # nobody reads its reports
    assert slot.worker.process.returncode == 0 and run.result()


def test_a_run_that_fails_is_named_and_loses_no_other(tmp_path, capsys):
    block = Block({"A": "--fails=1", "B": "--dies=2"}, {"task": ""})
    options = {"run_dir": str(tmp_path / "sweep"), "learning_rates": [0.1], "accelerator": "cpu", "devices": 2}
    missing = r"2 of 6 runs are missing: A on task, rate 0.1, seed 1; B on task, rate 0.1, seed 2$"
    with pytest.raises(ConfigError, match=missing):
        sweep(cells=[block], **options)
    out = " ".join(capsys.readouterr().out.split())
    assert "seed 1: failed, RuntimeError: out of order" in out and "lr0.1_seed1.log" in out
    assert "B on task, rate 0.1, seed 2: failed, killed by signal 9" in out
    folders = [tmp_path / "sweep/task" / name for name in ("a", "b")]
    assert [len(list(folder.glob("*/length_generalization.json"))) for folder in folders] == [2, 2]
    with pytest.raises(ConfigError, match="2 of 6 runs are missing"):  # only those are tried again
        sweep(cells=[block], **options)
    assert [len((folder / "started").read_text().splitlines()) for folder in folders] == [4, 4]


@pytest.mark.parametrize("gpu", [None, "0"])
def test_a_run_that_ends_without_scores_is_told_from_one_that_fails(gpu, tmp_path):
    schedule = Schedule(make_cell("--unscored=1").runs(tmp_path / "sweep"), [Device(gpu)])
    run_to_the_end(schedule)
    assert len(schedule.done) == 2
    [reason] = schedule.failed.values()
    assert "it wrote no length_generalization.json, as --trainer.callbacks+=" in reason


def test_a_run_goes_on_from_a_checkpoint_in_shards(tmp_path):
    cell = make_cell(seeds=(0,))
    [run] = cell.runs(tmp_path / "sweep")
    run.checkpoint.mkdir(parents=True)
    run_to_the_end(Schedule([run], [Device(None)]))
    assert [line[1] for line in started(tmp_path / "sweep", cell)] == ["True"]


def test_a_run_that_starts_again_forgets_the_seconds_before(tmp_path):
    goes_on, again = runs = make_cell(seeds=(0, 1)).runs(tmp_path / "sweep")
    goes_on.checkpoint.mkdir(parents=True)
    again.folder.mkdir(parents=True)
    for run in runs:
        run.add_seconds(1000)
    run_to_the_end(Schedule(runs, [Device(None)]))
    assert again.seconds() < 1000 <= goes_on.seconds()


@pytest.mark.parametrize("ended", ["in training", "idle"])
def test_a_worker_that_dies_is_replaced(ended, tmp_path):
    arguments = ["--dies=0"] if ended == "in training" else []
    first, second = make_cell(*arguments, seeds=(0, 1)).runs(tmp_path / "sweep")
    slot = Slot(Device(None))
    attempt = begin(first, slot)
    wait_for(attempt.ended)
    attempt.close()
    dead = slot.worker
    dead.process.kill()
    dead.process.wait()
    attempt = begin(second, slot)
    wait_for(attempt.ended)
    attempt.close()
    slot.worker.close()
    assert slot.worker is not dead and second.result() and bool(first.result()) == (ended == "idle")


def test_ctrl_c_leaves_checkpoints_from_which_the_same_command_goes_on(tmp_path):
    grid = {"run_dir": str(tmp_path / "sweep"), "learning_rates": [0.1], "seeds": [0, 1], "accelerator": "cpu"}
    grid |= {"devices": 2, "cells": [{"models": {"A": "--seconds=600"}, "tasks": {"task": ""}}]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    code = f"from lrnn.sweep import attempt; attempt.WORKER = {COMMAND}; from lrnn.sweep.__main__ import main; main()"
    command = [sys.executable, "-c", code, f"--config={tmp_path}/grid.yaml"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "sweep/task/a/started"
    wait_for(lambda: process.poll() is not None or (log.exists() and log.read_text().count("\n") == 2))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 1 and errors == "interrupted: the same command goes on where it stopped\n"
    assert len(list(tmp_path.glob("sweep/task/a/*/checkpoints/last.ckpt"))) == 2
    subprocess.run(command, check=True)
    assert sorted(line.split()[1] for line in log.read_text().splitlines()) == ["False"] * 2 + ["True"] * 2
    assert len(list(tmp_path.glob("sweep/task/a/*/length_generalization.json"))) == 2


def test_a_gpu_that_vanishes_is_retired_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Device, "answers", lambda device: device.gpu != "lost")
    cell = make_cell("--seconds=0.3", seeds=tuple(range(9)))
    schedule = Schedule(cell.runs(tmp_path / "sweep"), [Device("lost"), Device("7")], runs_per_device=2)
    run_to_the_end(schedule)
    assert len(schedule.done) + len(schedule.failed) == 9 and 2 <= len(schedule.failed) <= 3
    assert set(schedule.failed.values()) == {"GPU lost does not answer any more; RuntimeError: out of order"}
    on = [gpu for _, _, gpu, _ in started(tmp_path / "sweep", cell)]
    assert on.count("lost") == len(schedule.failed) and on.count("7") == len(schedule.done)

    schedule = Schedule(schedule.failed, [Device("lost")])  # no device is left: the waiting runs stay waiting
    run_to_the_end(schedule)
    assert len(schedule.failed) == 2 and len(schedule.waiting) == max(0, on.count("lost") - 2)


def test_a_failure_that_is_not_the_gpus_does_not_retire_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Device, "answers", lambda device: True)
    runs = [run for seed in (0, 1, 2) for run in make_cell(f"--fails={seed}", seeds=(seed,)).runs(tmp_path / "sweep")]
    schedule = Schedule(runs, [Device("0")])
    run_to_the_end(schedule)
    assert list(schedule.failed.values()) == ["RuntimeError: out of order"] * 3


def test_a_folder_of_another_grid_is_refused_and_one_that_grows_is_not(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("width: 1")
    folder, argument = tmp_path / "sweep", f"--config={config}"
    claim_folder(folder, [make_cell(argument)])
    claim_folder(folder, [make_cell(argument, seeds=(3,), rates=(0.2,)), make_cell(argument, model="B")])
    both, other = read_folder(folder)
    assert (both.seeds, both.learning_rates, other.model) == ((0, 1, 2, 3), (0.1, 0.2), "B")

    before = (folder / "grid.json").read_text()
    with pytest.raises(
        ConfigError, match=r"run_dir: .*/sweep was written by another grid: Model.* had other arguments"
    ):
        claim_folder(folder, [make_cell(argument, "--model.width=2")])
    config.write_text("width: 2")
    with pytest.raises(ConfigError, match=r"another grid: Model \[0, 1\] on task had other files"):
        claim_folder(folder, [make_cell(argument)])
    config.write_text("width: 1  # a comment is not a difference")
    claim_folder(folder, [make_cell(argument)])
    assert json.loads((folder / "grid.json").read_text()) == json.loads(before)
    with pytest.raises(ConfigError, match="exists, but is not the folder of a sweep"):
        claim_folder(tmp_path, [make_cell(argument)])
    with pytest.raises(ConfigError, match=r"learning_rates: must differ in .* got \[0\.1, 0\.2, 0\.1000000001\]"):
        claim_folder(folder, [make_cell(argument, rates=(0.1000000001,))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [0, 0]}, r"seeds: must be different values, at least one, got \[0, 0\]"),
        ({"learning_rates": []}, "learning_rates: must be different values"),
        ({"cells": []}, "cells: must have at least one model"),
        ({"cells": [Block({"A": "", "a": ""}, {"task": ""})]}, "cells: a on task occurs twice"),
        (
            {"cells": [Block({"A": "--model.width 3"}, {"task": ""})]},
            "arguments must be written --key=value, got --model.wid",
        ),
        (
            {"cells": [Block({"A": "--config=conf/no.yaml"}, {"task": ""})]},
            "A on task names conf/no.yaml, which does not exist",
        ),
        (
            {"cells": [Block({"A": "--model.init_args.learning_rate=3"}, {"task": ""})]},
            r"cells: the sweep sets model\.init_args\.learning_rate by its own option learning_rates, got --model",
        ),
        (
            {"cells": [Block({"A": ""}, {"task": "--run_dir=elsewhere"})]},
            "cells: the sweep sets run_dir by its own option run_dir, got --run_dir=elsewhere",
        ),
        (
            {"arguments": "--trainer.accelerator=gpu"},
            r"arguments: the sweep sets trainer\.accelerator by its own option accelerator, got",
        ),
        ({"arguments": "--seed_everything=3"}, "arguments: the sweep sets seed_everything by its own option seeds"),
        (
            {"arguments": '--model.width="8'},
            r'arguments: arguments must be written as in a shell, got --model\.width="8 \(No closing quotation\)$',
        ),
        (
            {"learning_rates": [0.00123456, 0.001234561]},
            r"learning_rates: must differ in their first six digits, got \[0\.00123456, 0\.001234561\]",
        ),
        ({"only": "B*"}, r"only: no cell and no run matches B\*; cells: A on task; a run: A on task, rate 0.1, seed 0"),
        ({"runs_per_device": 0}, "runs_per_device: must be at least 1, got 0"),
        ({"devices": 0}, "devices: must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(options, message, tmp_path):
    usual = {"cells": [Block({"A": ""}, {"task": ""})], "learning_rates": [0.1], "accelerator": "cpu"}
    with pytest.raises(ConfigError, match=message):
        sweep(**{"run_dir": str(tmp_path / "sweep"), **usual, **options})
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_prints_what_is_left_to_do_and_writes_nothing(tmp_path, capsys):
    options = {"run_dir": str(tmp_path / "sweep"), "learning_rates": [0.1], "seeds": [0, 1], "accelerator": "cpu"}
    sweep(cells=[Block({"A": ""}, {"task": ""})], **options, dry_run=True)
    assert capsys.readouterr().out.count("python -m lrnn.fit") == 2 and not (tmp_path / "sweep").exists()

    sweep(cells=[Block({"A": ""}, {"task": ""})], **options, devices=1, only="*, seed 0")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    sweep(cells=[Block({"A": ""}, {"task": ""})], **options, dry_run=True)
    [command] = capsys.readouterr().out.splitlines()
    assert "--seed_everything=1" in command and sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ConfigError, match="was written by another grid: A on task had other arguments"):
        sweep(cells=[Block({"A": "--model.width=8"}, {"task": ""})], **options, dry_run=True)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("* [0, 1] on *", ["A [0, 1]: 1 0", "A [0, 1]: 1 1", "A [0, 1]: 2 0", "A [0, 1]: 2 1"]),
        ("A *, seed 1", ["A [0, 1]: 1 1", "A [0, 1]: 2 1"]),
        ("B on task, rate 2, *", ["B: 2 0", "B: 2 1"]),
    ],
)
def test_cells_and_runs_are_chosen_by_name(only, expected, tmp_path, capsys):
    block = Block({"A [0, 1]": "--name=A", "B": ""}, {"task": ""}, learning_rates=[1, 2], seeds=[0, 1])
    sweep(str(tmp_path), [block], [0.1], accelerator="cpu", only=only, dry_run=True)
    runs = re.findall(r"learning_rate=(\d) --seed_everything=(\d) .*task/(a_0_1|b)/", capsys.readouterr().out)
    assert [f"{'B' if name == 'b' else 'A [0, 1]'}: {rate} {seed}" for rate, seed, name in runs] == expected


def test_the_configuration_of_a_run_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweep", "--config", "conf/parity.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == (
        "error: config: conf/parity.yaml configures a run; use python -m lrnn.fit --config conf/parity.yaml"
    )


def grid_of(path):
    config = yaml.safe_load((ROOT / path).read_text())
    blocks = [Block(**block) for block in config["cells"]]
    return make_cells(blocks, config["learning_rates"], config["seeds"], config.get("arguments", ""))


def test_files_come_before_options_and_the_options_of_the_model_come_last():
    model, task, sweep = "--model.a=1 --config=m", "--task.a=1 --config=t", "--sweep.a=1 --config=s"
    [cell] = make_cells([Block({"A": model}, {"task": task})], [0.1], [0], sweep)
    assert cell.arguments == (
        *("--config=m", "--config=t", "--config=s"),
        *("--sweep.a=1", "--task.a=1", "--model.a=1"),
    )


def test_group_word_problems_train_as_their_names_say():
    reflections = {"s3": 2, "s4": 3, "s5_swaps": 1, "a5_2_reflections": 2}
    cells = grid_of("conf/sweeps/groups.yaml")
    for cell in cells:
        model = resolve(cell)["model"]["init_args"]
        wide = "[-1, 1]" in cell.model
        assert [*model["eigenvalue_range"]] == [-1 if wide else 0, 1]
        strength = 1 if cell.task in ("s5_swaps", "s5_generators") else 0.3
        assert model["state_consistency"] == (strength if "consistency" in cell.model else 0), cell.name
        if "DeltaProduct" in cell.model:
            assert model["reflections"] == reflections.get(cell.task, 4), cell.name
    assert len(cells) == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("conf/sweeps/*.yaml") if "\ncells:" in path.read_text()),
)
def test_every_argument_of_a_sweep_is_one_of_fit(path, tmp_path):
    seen = set()
    for cell in grid_of(path):
        if seen.issuperset(cell.arguments):
            continue
        seen.update(cell.arguments)
        command = cell.runs(tmp_path)[0].command()
        cli = FitCLI([*shlex.split(command)[3:], "--trainer.accelerator=cpu"])
        assert cli.config.model.init_args.learning_rate == cell.learning_rates[0]
        if "quick" in path:
            assert cli.config.trainer.max_steps == 500 and cli.config.model.init_args.layers == 1
        elif "arithmetic" in cell.task:
            xlstm = cell.model in ("mLSTM", "sLSTM")
            assert cli.config.trainer.gradient_clip_val == (None if xlstm else 1.0)
            model, data = cli.config.model.init_args, cli.config.data
            narrow = xlstm or ("curriculum" in path and "width 128" not in cell.model)
            assert (model.layers, model.width) == (3, 64 if narrow else 128)
            usual = 256 if "sweeps/arithmetic" in path else 1024
            assert data.init_args.batch_size == (512 if cell.model == "mLSTM" else usual)
            assert data.init_args.get("multiplication", False) == cell.task.endswith("times")
            assert data.class_path == f"data.{type(cli.datamodule).__name__}" != "data.Parity"
