"""Benchmark: python -m lrnn.bench times kernels and training steps on a GPU, and the CPU forms elsewhere."""

import json
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

import lrnn.runtime.kernel_cache  # noqa: F401  sets the cache's folders
from lrnn.bench.row import Row
from lrnn.runtime.command import command
from lrnn.runtime.tabular import markdown

Part = Literal["all", "kernels", "parity", "language_models", "generation", "evaluation"]
HEADER = ("what: ours, baseline", "ours", "baseline", "unit", "ratio")


def bench(part: Part = "all", out: str = "results/bench") -> None:
    """Measure our code and a baseline in turn, and write <device>.json and <device>.md.

    Args:
        part: Part to measure on a GPU. The files keep the rows of the other parts if these were measured with
            the same version of PyTorch.
        out: Folder of the results.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    folder, name = Path(out), re.sub(r"\W+", "_", device).strip("_").lower()
    folder.mkdir(parents=True, exist_ok=True)
    console, path = Console(), folder / name
    heading = f"`python -m lrnn.bench` on {device}, PyTorch {torch.__version__}"
    rows = {} if part == "all" else _read(path, heading)
    for row in _rows(on_gpu, part):
        rows[row.name] = row
        console.print(markdown(HEADER, [_cells(row)])[-1])
        _write(path, heading, list(rows.values()))  # after every row, since the next one may fail
    console.print(f"written: {path}.json, .md")


def _read(path: Path, heading: str) -> dict[str, Row]:
    table = path.with_suffix(".md")
    if not table.is_file() or table.read_text().split("\n", 1)[0] != heading:
        return {}
    records = json.loads(path.with_suffix(".json").read_text())
    return {record["name"]: Row(*(record[key] for key in ("name", "ours", "baseline", "unit"))) for record in records}


def _write(path: Path, heading: str, rows: list[Row]) -> None:
    records = [{**asdict(row), "ratio": row.ratio} for row in rows]
    path.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n")
    table = markdown(HEADER, [_cells(row) for row in rows])
    path.with_suffix(".md").write_text("\n".join([heading, "", *table]) + "\n")


def _rows(on_gpu: bool, part: Part) -> Iterator[Row]:
    if not on_gpu:
        from lrnn.bench import cpu

        yield from cpu.rows()
        return
    from lrnn.bench import evaluation, generation, kernels, training

    sys.argv = sys.argv[:1]  # LightningCLI, which the training steps go through, warns about arguments
    parts = {
        "kernels": kernels.rows,
        "parity": training.parity_rows,
        "language_models": training.language_model_rows,
        "generation": generation.rows,
        "evaluation": evaluation.rows,
    }
    for name, measure in parts.items():
        if part in ("all", name):
            yield from measure()


def _cells(row: Row) -> tuple[str, ...]:
    return row.name, _figure(row.ours), _figure(row.baseline), row.unit, _figure(row.ratio)


def _figure(x: float | None) -> str:
    """Write a number with four digits, or to the unit if it is larger."""
    if x is None:
        return "-"
    return f"{x:,.0f}" if x >= 1000 else f"{x:.4g}"


def main() -> None:
    command(bench, "lrnn.bench")


if __name__ == "__main__":
    main()
