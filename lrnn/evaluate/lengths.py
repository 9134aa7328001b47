"""Score a checkpoint on a task at any lengths, without training.

python -m lrnn.evaluate lengths --checkpoint=runs/fit/parity --lengths=[64,1024,16384]
python -m lrnn.evaluate lengths --checkpoint=runs/fit/parity --task=data.EvenPairs
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from lrnn.evaluate.contract import LengthTask
from lrnn.evaluate.length_figure import length_figure, prefix_figure
from lrnn.evaluate.record import write_record
from lrnn.evaluate.scoring import PrefixScores, Scores, as_record, score, score_prefixes
from lrnn.evaluate.setting import Precision, choose_device, precision_context, run_config
from lrnn.evaluate.task import check_lengths, check_vocabulary, load_task
from lrnn.models.class_path import import_path
from lrnn.runtime.checkpoint import find_checkpoint, load_model, read_metadata
from lrnn.runtime.errors import check_at_least

LENGTHS = (40, 64, 96, 128, 160, 192, 224, 256, 512, 1024, 4096, 16384)


def evaluate_lengths(
    checkpoint: str = "runs/fit/parity",
    task: str | None = None,
    task_options: dict[str, Any] | None = None,
    lengths: Sequence[int] = LENGTHS,
    samples: int = 256,
    test_lengths: tuple[int, int] | None = None,
    test_samples: int | None = None,
    prefix_length: int | None = None,
    evaluation_seed: int | None = None,
    segment: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Print the accuracy of a model on a test set and at each of many lengths, per label and per sequence.

    Args:
        checkpoint: Folder of a run of `python -m lrnn.fit` (its last checkpoint is read), or one of its checkpoints.
        task: Import path of the data module to score on; that of the run when absent.
        task_options: Options of that data module, such as --task_options.supervision=last. The others are as in the
            run if it is the run's own data module, and have their defaults if it is another.
        lengths: Lengths to score at.
        samples: Number of sequences of each length.
        test_lengths: Shortest and longest sequence of the test set; those of the data module when absent.
        test_samples: Number of sequences in the test set; that of the data module when absent.
        prefix_length: Length of the test sequences that are scored at each of their positions too, as in the paper's
            Figure 4; none when absent.
        evaluation_seed: Seed of the sequences; that of the data module when absent.
        segment: Tokens of a sequence read in one call of the model, with the state carried on to the next; 1,024 when
            absent, and 32 on a CPU.
        device: Device of the model; auto takes a GPU if there is one.
        precision: Precision of the model's arithmetic; that of the run when absent.
        out: Folder for the scores, lengths.json, and their figure, lengths.png; nothing is written when absent.
    """
    check_at_least(1, samples=samples, segment=segment, test_samples=test_samples, prefix_length=prefix_length)
    checkpoint = find_checkpoint(checkpoint)
    model, config = load_model(checkpoint), run_config(checkpoint)
    options = {**(task_options or {}), **({} if evaluation_seed is None else {"evaluation_seed": evaluation_seed})}
    data = load_task(task, options, config.get("data"))
    check_vocabulary(model, data)
    test_lengths, test_samples = test_lengths or data.test_lengths, test_samples or data.test_samples
    spans = [test_lengths, *((length, length) for length in (*lengths, *([prefix_length] if prefix_length else [])))]
    check_lengths(data, spans)
    place = choose_device(device)
    model.to(place)
    context = precision_context(precision or config.get("trainer", {}).get("precision") or "32-true", place)
    run_score = partial(score, model, data, segment=segment, device=place, precision=context)
    test = run_score(*test_lengths, test_samples)
    at = {length: run_score(length, length, samples) for length in lengths}
    _print_table(test_lengths, test, at)
    record = {
        "checkpoint": checkpoint,
        "step": read_metadata(Path(checkpoint)).get("global_step"),
        "model": import_path(type(model)),
        "task": import_path(type(data)),
        "evaluation_seed": getattr(data, "evaluation_seed", None),
        "samples": samples,
        "segment": segment,
        "test_lengths": list(test_lengths),
        "test_samples": test_samples,
        **as_record(test, at),
    }
    if prefix_length is not None:
        prefixes = score_prefixes(model, data, prefix_length, test_samples, **run_score.keywords)
        _print_prefixes(prefixes)
        record["prefixes"] = {"length": prefix_length, "samples": test_samples, **vars(prefixes)}
    if out is not None:
        _write(Path(out), record, _longest_trained(config, data))
    return record


def _longest_trained(config: dict[str, Any], task: LengthTask) -> int:
    """The longest sequence that the run was trained on; the task's own where the run does not say."""
    return config.get("data", {}).get("init_args", {}).get("train_lengths", task.train_lengths)[1]


def _print_table(test_lengths: tuple[int, int], test: Scores, at: dict[int, Scores]) -> None:
    table = Table("length", "scaled accuracy", "accuracy", "sequences right")
    for name, one in [(f"test set, {test_lengths[0]:,}-{test_lengths[1]:,}", test), *at.items()]:
        label = name if isinstance(name, str) else f"{name:,}"
        table.add_row(label, *(f"{value:.3f}" for value in (one.scaled_accuracy, one.accuracy, one.sequence_accuracy)))
    Console().print(table)


def _print_prefixes(prefixes: PrefixScores) -> None:
    table = Table("tokens t", "label at t right", "all labels up to t right")
    last = prefixes.positions[-1]
    for t, *values in zip(prefixes.positions, prefixes.accuracy, prefixes.sequence_accuracy, strict=True):
        if t == last or t & (t - 1) == 0:
            table.add_row(f"{t:,}", *(f"{value:.3f}" for value in values))
    Console().print(table)


def _write(folder: Path, record: dict[str, Any], longest_trained: int) -> None:
    write_record(folder / "lengths.json", record)
    written = ["lengths.json"]
    if record["scaled_accuracy_at"]:
        model, task = (record[key].rpartition(".")[2] for key in ("model", "task"))
        figure = length_figure({f"{model} on {task}": [record["scaled_accuracy_at"]]}, longest_trained)
        figure.savefig(folder / "lengths.png", dpi=150)
        written.append("lengths.png")
    if "prefixes" in record:
        curve = dict(zip(record["prefixes"]["positions"], record["prefixes"]["sequence_accuracy"], strict=True))
        longest = max(curve) * longest_trained / record["prefixes"]["length"]
        prefix_figure({record["model"].rpartition(".")[2]: [curve]}, longest).savefig(folder / "prefixes.png", dpi=150)
        written.append("prefixes.png")
    print(f"written to {folder}: {', '.join(written)}")
