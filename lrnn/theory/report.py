"""What `python -m lrnn.theory theorems` found, as tables in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrnn.runtime.tabular import markdown
from lrnn.theory.check import Result
from lrnn.theory.limits import DTYPES


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    theorem: str
    name: str
    made_of: str
    result: Result


def report(rows: dict[str, list[Row]], limits: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return the text of theorems.md.

    Args:
        rows: lines of each table, by its name.
        limits: what was found of Theorem 1, Theorem 2 and Proposition 1.
        settings: options of the command, with the device and the seconds that it took.
    """
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
    return "\n".join(markdown(header, lines)) + "\n"
