"""Try random bad overrides of the shipped configurations: python -m tests.bad_overrides --shards FOLDER [--cases 200]

Each case sets one option of one configuration to one unfitting value, in a process of its own, and either trains or
ends in one line below 300 characters that names the option. tests/test_bad_overrides.py tries some of them.
"""

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch

from callbacks import TrainingDivergedError
from lrnn.fit import FitCLI, configure_output, fit
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parent.parent
VALUES = ["-1", "0", "1e-300", "nan", "inf", "-inf", "[]", "{}", "[0,1]", "x", "null", "", "1e400", "99999999999999"]
SECONDS, MEMORY = 60, 6 * 2**30  # of one case
SMALL = ["--trainer.accelerator=cpu", "--trainer.max_steps=20", "--trainer.devices=1", "--trainer.num_nodes=1"]
SMALL += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.batch_size=2"]
SMALL_TASK = ["--data.validation_samples=4", "--data.test_samples=4"]
SMALL_TEXT = [f"--data.tokenizer={ROOT}/data/mistral_v1", "--data.context=8", "--trainer.limit_val_batches=1"]
SMALL_MODEL = ["--model.width=16", "--model.layers=1"]


class Trained(BaseException):
    """The run took a step."""


class StopEarly(L.Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        raise Trained


def configurations(shards: Path) -> dict[str, list[str]]:
    """Return the arguments of each shipped configuration of one run, made small."""
    found = {}
    for path in sorted(ROOT.glob("conf/**/*.yaml")):
        text = path.read_text()
        if "class_path: lrnn.models" not in text:
            continue
        protocol = [f"--config={ROOT}/conf/paper/protocol.yaml"] if path.parent.name == "models" else []
        small = [*SMALL_TEXT, f"--data.shards={shards}"] if "data.FineWeb" in text else SMALL_TASK
        wide = SMALL_MODEL if "pretrain" in path.name else []
        found[str(path.relative_to(ROOT))] = [*protocol, f"--config={path}", *SMALL, *small, *wide]
    return found


def options_of(arguments: list[str]) -> list[str]:
    """Return the names of all options of a configuration, those of its classes included."""
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        config = FitCLI([*arguments, f"--run_dir={folder}/run"]).config
    leaves = {key.replace(".init_args.", ".") for key, _ in config.items() if not key.endswith("class_path")}
    leaves |= {"model", "data", "trainer", "schedule", "compile", "trainer.callbacks"}
    return sorted(leaves - {"config", "run_dir"})


def cases(number: int, seed: int, shards: Path) -> Iterator[tuple[str, list[str], str, str]]:
    draw = random.Random(seed)
    known = configurations(shards)
    options: dict[str, list[str]] = {}
    for _ in range(number):
        name = draw.choice(sorted(known))
        options.setdefault(name, options_of(known[name]))
        yield name, known[name], draw.choice(options[name]), draw.choice(VALUES)


def complaint(arguments: list[str], option: str, value: str) -> str | None:
    """Return what is wrong with how a run with this override ends, or None."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        child = os.fork()
        if child == 0:
            _run([*arguments, f"--run_dir={folder}/run", f"--{option}={value}"], report)
        _, status = os.waitpid(child, 0)
        said = report.read_text() if report.exists() else ""
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)} {said[-300:]}"
    if said == "trained":
        return None
    if not said.startswith("error: "):
        return said[-1500:]
    named = any(part in said for part in (option, option.rpartition(".")[2]))
    if "\n" in said or len(said) >= 300 or not named:
        return f"{len(said)} characters, names the option: {named}: {said}"
    return None


def _run(arguments: list[str], report: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_memory() + MEMORY,) * 2)
    signal.alarm(SECONDS)
    for descriptor in (1, 2):
        os.dup2(os.open(report.with_suffix(".log"), os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(report.parent)
    try:
        fit(arguments, [StopEarly()])
        report.write_text("trained")
    except (Trained, TrainingDivergedError):
        report.write_text("trained")
    except ConfigError as error:
        report.write_text(f"error: {error}")
    except BaseException:
        report.write_text(traceback.format_exc())
    os._exit(0)


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    configure_output()
    torch.set_num_threads(1)
    bad = 0
    for name, arguments, option, value in cases(args.cases, args.seed, args.shards.absolute()):
        problem = complaint(arguments, option, value)
        if problem:
            bad += 1
            print(f"{name} --{option}={value}\n    {problem}", flush=True)
    print(f"{args.cases} overrides, {bad} of them badly answered")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
