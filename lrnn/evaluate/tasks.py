"""Score a language model on tasks of lm-evaluation-harness.

python -m lrnn.evaluate tasks --checkpoint=runs/pretrain_340m
python -m lrnn.evaluate tasks --checkpoint=exported --tasks=[piqa,arc_easy] --limit=100
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from lrnn.evaluate.results_file import ResultsFile
from lrnn.evaluate.setting import Precision, choose_device, precision_context
from lrnn.evaluate.subject import load_subject
from lrnn.models.class_path import import_path
from lrnn.runtime.errors import ConfigError, check_at_least

TASKS = (  # of Table 4 of the paper
    "wikitext",
    "lambada_openai",
    "piqa",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "swde",
    "squad_completion",
    "fda",
)


def evaluate_tasks(
    checkpoint: str = "runs/pretrain_smoke",
    tasks: Sequence[str] = TASKS,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 64,
    max_length: int | None = 2048,
    include_path: str | None = None,
    tokenizer: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Print the scores of a model on tasks of lm-evaluation-harness, by default those of the paper's Table 4.

    Each score is written when its task is done. A task that fails, say because its data can't be fetched, is named at
    the end; the others are scored.

    Args:
        checkpoint: Folder of a run, one of its checkpoints (a file, or a folder of shards), or an exported folder.
        tasks: Names of tasks, groups or tags of the harness.
        limit: Number of documents of each task, the first ones; all when absent.
        num_fewshot: Number of solved examples before each question; that of the task when absent.
        batch_size: Number of rows that the model reads together.
        max_length: Most tokens that the model sees at once, as with the harness's adapter for Hugging Face models;
            null carries the state over texts of any length.
        include_path: Folder of YAML files with more tasks.
        tokenizer: Tokenizer of the model; when absent, that of the run or of the exported folder.
        device: Device of the model; auto takes a GPU if there is one.
        precision: Precision of the model's arithmetic; that of the run when absent.
        out: Folder for tasks.json; when absent, the folder `evaluate` in the run's folder.
    """
    check_at_least(1, batch_size=batch_size, limit=limit, max_length=max_length)
    manager = _task_manager(include_path)
    _check_tasks(tasks, manager)
    subject, place = load_subject(checkpoint, tokenizer), choose_device(device)
    chosen = precision or subject.precision
    from lrnn.evaluate.harness import Adapter

    model = subject.model.to(place)
    adapter = Adapter(model, subject.tokenizer, batch_size, max_length, precision_context(chosen, place))
    file = ResultsFile(
        (Path(out) if out else subject.folder) / "tasks.json",
        {
            "checkpoint": checkpoint,
            "name": subject.name,
            "step": subject.step,
            "model": import_path(type(model)),
            "tokenizer": subject.tokenizer_name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "eigenvalue_range": _range(model.hparams.get("eigenvalue_range")),
            "precision": chosen,
            "limit": limit,
            "num_fewshot": num_fewshot,
            "max_length": max_length,
        },
    )
    failures = []
    for task in tasks:
        try:
            scores = _score(adapter, task, manager, limit, num_fewshot)
        except Exception as error:  # of the hub, of a data set's format, of a task's own code: each its own
            failures.append(f"{task} ({type(error).__name__}: {' '.join(str(error).split())[:120]})")
            print(f"{task}: failed")
            continue
        for name, metrics in scores.items():
            file.add(name, metrics)
        _print(scores)
    print(f"written to {file.path}")
    if failures:
        raise ConfigError(f"tasks: {', '.join(failures)} could not be scored; the others are in {file.path}")
    return file.record


def _task_manager(include_path: str | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError("tasks: lm_eval is not installed: .venv/bin/pip install -e '.[evaluate]'") from error
    if include_path is not None and not Path(include_path).is_dir():
        raise ConfigError(f"include_path: there is no folder {include_path}")
    return TaskManager(include_path=include_path)


def _check_tasks(tasks: Sequence[str], manager: Any) -> None:
    if not tasks:
        raise ConfigError("tasks: must name at least one, got []")
    for task in tasks:
        if task not in manager.task_index:
            close = difflib.get_close_matches(task, list(manager.task_index), 3)
            hint = f"; did you mean {' or '.join(close)}?" if close else "; lm-eval ls tasks lists them"
            raise ConfigError(f"tasks: lm-evaluation-harness has no {task}{hint}")


def _score(adapter: Any, task: str, manager: Any, limit: int | None, num_fewshot: int | None) -> dict[str, Any]:
    """Return {name: {metric: value}} of a task, or of each task of a group."""
    from lm_eval import simple_evaluate

    found: Any = simple_evaluate(
        model=adapter,
        tasks=[task],
        num_fewshot=num_fewshot,
        limit=limit,
        log_samples=False,
        bootstrap_iters=0,
        task_manager=manager,
    )
    return {name: _metrics(values) for name, values in found["results"].items()}


def _metrics(values: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a task's result: acc, acc_norm, word_perplexity and the like, without their errors."""
    numbers = {name.removesuffix(",none"): value for name, value in values.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if "stderr" not in name}


def _range(value: Any) -> list[float] | None:
    return None if value is None else [float(end) for end in value]


def _print(scores: dict[str, dict[str, float]]) -> None:
    table = Table("task", "metric", "score")
    for task, metrics in scores.items():
        for metric, value in metrics.items():
            table.add_row(task, metric, f"{value:.4g}")
    Console().print(table)
