"""Run every construction against its automaton, and write what was found as tables and figures."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from lrnn.ops import Form
from lrnn.runtime.errors import ConfigError, check_at_least
from lrnn.theory.check import ModelMachine, check
from lrnn.theory.claims import MODULI, Planned, cascades, explicit, models
from lrnn.theory.construct import parity_delta_net
from lrnn.theory.figures import convergence_figure, distance_figure
from lrnn.theory.limits import (
    binary_counter,
    certificates,
    length_until_constant,
    period_on_ones,
    proposition_1,
    random_real_stack,
)
from lrnn.theory.linear_rnn import LinearRNN, reflection_rnn, rotation_rnn
from lrnn.theory.report import Row, report

MODELS = "Architectures, float32"  # name of a table
DEEPEST = 4  # layers of the random stacks of Theorem 2


def theorems(
    words: int = 16,
    length: int = 100_000,
    parity_length: int = 1_000_000,
    explicit_length: int = 10_000,
    cascade_length: int = 10_000,
    automata: int = 50,
    device: Literal["cpu", "cuda"] = "cpu",
    form: Form = "auto",
    out: str = "runs/theory",
) -> None:
    """Check the constructions of the paper's theorems on random words; end with status 1 if one makes an error.

    Args:
        words: Number of random words for each construction.
        length: Letters in a word.
        parity_length: Letters in a word of parity.
        explicit_length: Letters in a word of the explicit linear RNN, except for parity.
        cascade_length: Letters in a word of a cascade.
        automata: Number of random automata that are made into cascades.
        device: Device that the words run on. On a CPU, each core runs a construction.
        form: Form that the ops of the architectures run in.
        out: Folder for theorems.md, theorems.json, and figures.
    """
    lengths = {"length": length, "parity_length": parity_length, "explicit_length": explicit_length}
    sizes = {"words": words, **lengths, "cascade_length": cascade_length, "automata": automata}
    check_at_least(1, **sizes)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: a GPU was asked for, but CUDA finds none here; choose cpu")
    start = time.perf_counter()
    place = torch.device(device)
    tables: dict[str, list[Planned]] = {
        MODELS: models(),
        "Explicit linear RNN, float32": explicit(torch.float32),
        "Explicit linear RNN, bfloat16": explicit(torch.bfloat16),
        "Cascades": cascades(automata),
    }
    jobs: list[Callable[[], Any]] = []
    for name, planned in tables.items():
        for one in planned:
            letters = parity_length if one.parity else length
            if not one.parity and name != MODELS:
                letters = cascade_length if name == "Cascades" else explicit_length
            jobs.append(_job(one, words, letters, place, form, distances=name != "Cascades"))
    found = iter(_run_all([*jobs, _theorem_1, _theorem_2, proposition_1], place))
    rows = {name: [next(found) for _ in planned] for name, planned in tables.items()}
    limits = {"theorem_1": next(found), "theorem_2": next(found), "proposition_1": next(found)}
    seconds = time.perf_counter() - start
    settings = {**sizes, "device": _name(place), "seconds": round(seconds)}
    _write(Path(out), rows, limits, settings)
    print(f"{seconds:.0f} s; written to {out}: theorems.md, theorems.json, distances.png, convergence.png")
    wrong = [f"{row.name} ({row.made_of})" for name, table in rows.items() for row in table if _fails(name, row)]
    if wrong:
        raise SystemExit(f"error: {len(wrong)} constructions made errors: {', '.join(wrong)}")


def _fails(table: str, row: Row) -> bool:
    """Whether a construction made an error that the theorem excludes: a rotation in bfloat16 may."""
    return row.result.errors > 0 and (not table.endswith("bfloat16") or row.name == "parity")


def _job(
    one: Planned, words: int, letters: int, device: torch.device, form: Form, distances: bool
) -> Callable[[], Row]:
    def run() -> Row:
        claim = one.make(device)
        if isinstance(claim.machine, ModelMachine):
            for module in claim.machine.model.modules():
                if hasattr(module, "form"):
                    vars(module)["form"] = form
        result = check(claim, words, letters, device, distances=distances)
        verdict = "exact" if result.errors == 0 else f"{result.errors} errors,"
        print(f"Theorem {one.theorem:4} {one.name:28} {one.made_of:36} {verdict} to {result.exact:,}", flush=True)
        return Row(one.theorem, one.name, one.made_of, result)

    return run


_JOBS: list[Callable[[], Any]] = []  # which forked workers inherit: closures are not sent between processes


def _run_all(jobs: Sequence[Callable[[], Any]], device: torch.device) -> Iterator[Any]:
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    if device.type == "cuda" or cores == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from (job() for job in jobs)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # before the fork, which copies no threads
    _JOBS[:] = jobs
    with ProcessPoolExecutor(cores, multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_run, range(len(jobs)))
    torch.set_num_threads(threads)


def _run(i: int) -> Any:
    return _JOBS[i]()


def _theorem_1() -> list[dict[str, Any]]:
    """Lengths after which states are constant on 1^k."""
    rows = [asdict(one) for one in certificates()]
    constructed = length_until_constant(parity_delta_net(), token=2, longest=2**14)
    rows.append(
        {
            "architecture": "DeltaNet, constructed parity",
            "eigenvalue_range": (-1, 1),
            "layers": 1,
            "converged": {name: int(length is not None) for name, length in constructed.items()},
            "longest": {name: length or 0 for name, length in constructed.items()},
        }
    )
    return rows


def _theorem_2() -> dict[str, Any]:
    """Periods of outputs on 1^k."""
    stacks = {L: [_period(random_real_stack(L, seed)) for seed in range(50)] for L in range(1, DEEPEST + 1)}
    return {
        "counters": {L: period_on_ones(binary_counter(L), 1) for L in range(1, DEEPEST + 1)},
        "real": {L: {str(p): periods.count(p) for p in sorted({*periods}, key=str)} for L, periods in stacks.items()},
        "all_divide": all(p is not None and 2**L % p == 0 for L, periods in stacks.items() for p in periods),
        "rotations": {m: period_on_ones(rotation_rnn(m), 1) for m in MODULI},
        "reflections": {m: period_on_ones(reflection_rnn(m), 1) for m in MODULI},
    }


def _period(machine: LinearRNN) -> int | None:
    """Return the period on 1^k; some stacks come to it late."""
    return period_on_ones(machine, 1) or period_on_ones(machine, 1, 32_000)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _write(folder: Path, rows: dict[str, list[Row]], limits: dict[str, Any], settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "rows": {name: [asdict(row) for row in table] for name, table in rows.items()}}
    (folder / "theorems.json").write_text(json.dumps(record | limits, indent=1) + "\n")
    (folder / "theorems.md").write_text(report(rows, limits, settings))
    distance_figure(rows).savefig(folder / "distances.png", dpi=150)
    convergence_figure().savefig(folder / "convergence.png", dpi=150)
