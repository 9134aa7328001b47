"""Run every construction against its automaton, and write what was found as tables and figures."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure

from lrnn.ops import Form
from lrnn.runtime.errors import ConfigError
from lrnn.theory.check import ModelMachine, Result, check
from lrnn.theory.claims import MODULI, Planned, cascades, explicit, models
from lrnn.theory.construct import parity_delta_net
from lrnn.theory.limits import (
    DTYPES,
    RANDOM_LAYERS,
    binary_counter,
    certificates,
    changes_on_ones,
    length_until_constant,
    period_on_ones,
    proposition_1,
    random_real_stack,
)
from lrnn.theory.linear_rnn import LinearRNN, reflection_rnn, rotation_rnn

MODELS = "Architectures, float32"  # name of a table
SMALLEST = 1e-8  # drift in the figure: permutations, parity and Z2 have none
DEEPEST = 4  # layers of the random stacks of Theorem 2


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    theorem: str
    name: str
    made_of: str
    result: Result


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
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{name}: must be at least 1, got {value}")
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
    (folder / "theorems.md").write_text(_report(rows, limits, settings))
    _distance_figure(rows).savefig(folder / "distances.png", dpi=150)
    _convergence_figure().savefig(folder / "convergence.png", dpi=150)


def _report(rows: dict[str, list[Row]], limits: dict[str, Any], settings: dict[str, Any]) -> str:
    shown = " ".join(f"--{name}={value}" for name, value in settings.items() if name not in ("device", "seconds"))
    where = "on a CPU" if settings["device"] == "cpu" else f"with --device=cuda on an {settings['device']}"
    parts = [
        "# The theorems, checked\n",
        f"`python -m lrnn.theory theorems {shown}`, {where}: {settings['seconds']} s.",
        "Each construction reads random words, and is compared with its automaton after every letter. It is exact to",
        "the length at which the first of the words has an error. Lengths count letters: tokens without BOS.",
        "",
    ]
    for name, table in rows.items():
        if name != "Cascades":
            parts += [f"## {name}\n", _constructions(table)]
    parts += ["## Cascades (Theorem 4), float32\n", _cascades(rows["Cascades"])]
    parts += ["## Least distance of two states, and drift, at each power of ten\n"]
    parts += [
        "A cell has the least distance of two of the words that are in different states, and the drift: the largest",
        "distance of the state of a word from that of the shortest word to the same state of the automaton. Both are",
        "relative to the largest number in the states of short words. The read-out ignores the length of a state,",
        "so that a drift in length alone does no harm.\n",
    ]
    parts += [_distances({name: table for name, table in rows.items() if name != "Cascades"})]
    return "\n".join([*parts, _limits(limits)])


def _constructions(table: list[Row]) -> str:
    lines = [
        [row.theorem, row.name, row.made_of, f"{row.result.words:,}", f"{row.result.length:,}", f"{row.result.exact:,}",
         f"{row.result.errors:,}", f"{row.result.seconds:.1f}"]
        for row in table
    ]  # fmt: skip
    return _markdown(["theorem", "automaton", "made of", "words", "length", "exact to", "errors", "s"], lines)


def _cascades(table: list[Row]) -> str:
    named = [row for row in table if not row.name.startswith("random")]
    others = [row for row in table if row.name.startswith("random")]
    random = [row.result for row in others]
    lines = [
        [row.name, row.made_of, f"{row.result.words}", f"{row.result.length:,}", f"{row.result.exact:,}",
         f"{row.result.errors}"]
        for row in named
    ]  # fmt: skip
    if random:
        exact, errors = min(result.exact for result in random), sum(result.errors for result in random)
        size = [f"{random[0].words}", f"{random[0].length:,}", f"{exact:,}", f"{errors}"]
        most = max((row.made_of for row in others), key=lambda made_of: int(made_of.split()[0]))
        lines.append([f"{len(random)} random automata of 2 to 6 states", f"at most {most}", *size])
    return _markdown(["automaton", "made of", "words", "length", "exact to", "errors"], lines)


def _distances(tables: dict[str, list[Row]]) -> str:
    lengths = sorted({n for table in tables.values() for row in table for n in row.result.drift})
    lines = []
    for name, table in tables.items():
        for row in table:
            cells = [
                f"{row.result.least_distance[n]:.2g} / {row.result.drift[n]:.1g}"
                if n in row.result.least_distance and n in row.result.drift
                else ""
                for n in lengths
            ]
            short = f"{row.result.least_distance[0]:.2g}" if 0 in row.result.least_distance else ""
            dtype = name.rpartition(", ")[2]
            lines.append([row.name, row.made_of, dtype, short, *cells])
    return _markdown(["automaton", "made of", "state", "short words", *(f"{n:,}" for n in lengths)], lines)


def _limits(limits: dict[str, Any]) -> str:
    names = list(DTYPES)
    lines = [
        [row["architecture"], str(list(row["eigenvalue_range"])), f"{row['layers']}"]
        + [f"{row['converged'][name]}, {row['longest'][name]:,}" for name in names]
        for row in limits["theorem_1"]
    ]
    two = limits["theorem_2"]
    periods = [
        [f"{L} random layers, real eigenvalues", f"{2**L}", ", ".join(f"{p} ({n} stacks)" for p, n in found.items())]
        for L, found in two["real"].items()
    ]
    periods += [[f"{L} layers of a binary counter, a = -1", f"{2**L}", str(p)] for L, p in two["counters"].items()]
    periods += [[f"Z{m}, rotations", "", str(p)] for m, p in two["rotations"].items()]
    periods += [[f"Z{m}, 2 layers of reflections", "", str(p)] for m, p in two["reflections"].items()]
    checks = [[name, f"{value:.3g}"] for name, value in limits["proposition_1"].items()]
    return "\n".join(
        [
            "## Theorem 1: on 1^k, states converge if no eigenvalue is negative or complex\n",
            "Of random layers, how many have a state that stays the same, and after how many tokens at the latest.\n",
            _markdown(["layer", "range", "layers", *names], lines),
            "## Theorem 2: on 1^k, real eigenvalues give periods that divide 2^L\n",
            _markdown(["stack", "2^L", "period"], periods),
            "## Proposition 1\n",
            _markdown(["check, 200 or more random products of size 6", "value"], checks),
        ]
    )


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines)) + "\n"


def _convergence_figure() -> Figure:
    """Draw how much the states of layers change at token k of 1^k (Theorem 1)."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, make) in enumerate(RANDOM_LAYERS.items()):
        for seed in range(3):
            torch.manual_seed(seed)
            changes = changes_on_ones(make(), 2, 2**14)
            label = f"{name} [0, 1], 3 random layers" if seed == 0 else None
            axes.plot(range(1, len(changes) + 1), changes, color=f"C{i}", linewidth=1, label=label)
    changes = changes_on_ones(parity_delta_net(), 2, 2**14)
    axes.plot(
        range(1, len(changes) + 1), changes, color="C3", linewidth=2, label="DeltaNet, constructed parity, beta = 2"
    )
    for name, bits in (("float32", 24), ("bfloat16", 8)):
        axes.axhline(2.0**-bits, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(f"rounding of {name}", (1, 2.0**-bits), fontsize="x-small", va="bottom")
    axes.set(xscale="log", yscale="log", ylim=(1e-9, 3), xlabel="k, tokens of 1^k", ylabel="|h(k) - h(k-1)| / max |h|")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _distance_figure(rows: dict[str, list[Row]]) -> Figure:
    """Draw the drift of the explicit RNN against the length, beside half the least distance of two states."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, dtype in zip(panels, ("float32", "bfloat16"), strict=True):
        for i, row in enumerate(rows[f"Explicit linear RNN, {dtype}"]):
            drift = row.result.drift
            if max(drift.values(), default=0) > SMALLEST:
                style = "-" if row.theorem == "3" else "--"
                label = f"{row.name}, {row.made_of}"
                axes.plot([*drift], [*drift.values()], style, color=f"C{i // 2}", marker=".", label=label)
                half = row.result.least_distance[0] / 2
                axes.axhline(half, color=f"C{i // 2}", linewidth=0.5, linestyle=":")
        axes.set(xscale="log", yscale="log", ylim=(SMALLEST, None), xlabel="letters", title=f"state in {dtype}")
    panels[0].set_ylabel("drift; dotted: half the least distance")
    panels[1].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
