"""State tracking in text, by family and length; and the same as tasks of lm-evaluation-harness.

python -m lrnn.evaluate state_tracking --checkpoint=runs/state_tracking_text
python -m lrnn.evaluate state_tracking --write=tasks/state_tracking
lm_eval --model hf --model_args pretrained=gpt2 --include_path tasks/state_tracking --tasks state_tracking
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.table import Table

from data.state_tracking.documents import Document, make_document
from data.state_tracking.rows import check_families, encode_question
from lrnn.evaluate.choices import accuracy_record, score_choices
from lrnn.evaluate.record import write_record, write_whole
from lrnn.evaluate.setting import Precision, choose_device, precision_context
from lrnn.evaluate.subject import load_subject
from lrnn.models.class_path import import_path
from lrnn.runtime.errors import ConfigError, check_at_least

LENGTHS = (2, 4, 8, 16, 32, 64, 128)
GROUP = "state_tracking"  # in lm-evaluation-harness


def evaluate_state_tracking(
    checkpoint: str | None = None,
    families: Sequence[str] | None = None,
    lengths: Sequence[int] = LENGTHS,
    samples: int = 100,
    evaluation_seed: int = 2411,
    tokenizer: str | None = None,
    segment: int = 1024,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision | None = None,
    out: str | None = None,
    write: str | None = None,
) -> dict[str, Any] | None:
    """Print how often the right choice is the likeliest, by family and length, beside the level of chance.

    Args:
        checkpoint: Folder of a language model's run (its last checkpoint is read), one of its checkpoints, or a folder
            that `python -m lrnn.export` wrote.
        families: Families of documents, of variables, counters, recall, repl, negations and boards; all when absent.
        lengths: Numbers of operations in a document.
        samples: Number of documents of each family and length.
        evaluation_seed: Seed of the documents, in [0, 2^20). All are of the test split.
        tokenizer: Tokenizer that the model was trained with; when absent, the exported one, the one that the run's
            config.yaml names, or data/mistral_v1 if there is none.
        segment: Tokens of a document read in one call of the model, with the state carried on to the next.
        device: Device of the model; auto takes a GPU if there is one.
        precision: Precision of the model's arithmetic; that of the run when absent.
        out: Folder for the scores, state_tracking.json; nothing is written when absent.
        write: Folder to write the documents to, as JSON lines, with tasks of lm-evaluation-harness that read them. It
            needs no checkpoint.
    """
    check_at_least(1, samples=samples, segment=segment, lengths=min(lengths, default=None))
    if not lengths or len(set(lengths)) < len(lengths):
        raise ConfigError(f"lengths: must be different numbers, at least one, got {list(lengths)}")
    if not 0 <= evaluation_seed < 2**20:
        raise ConfigError(f"evaluation_seed: must lie in [0, {2**20}), got {evaluation_seed}")
    if checkpoint is None and write is None:
        raise ConfigError("checkpoint: must name a checkpoint, or --write a folder for the documents")
    try:
        chosen = check_families(families)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    documents = [
        make_document(evaluation_seed, "test", family, length, number)
        for family in chosen
        for length in lengths
        for number in range(samples)
    ]
    if write is not None:
        write_tasks(Path(write), documents)
    if checkpoint is None:
        return None
    subject, place = load_subject(checkpoint, tokenizer), choose_device(device)
    context = precision_context(precision or subject.precision, place)
    questions = [encode_question(subject.tokenizer, document) for document in documents]
    scores = score_choices(subject.model.to(place), questions, segment=segment, device=place, precision=context)
    record = {
        "checkpoint": checkpoint,
        "model": import_path(type(subject.model)),
        "evaluation_seed": evaluation_seed,
        "tokenizer": subject.tokenizer_name,
        **accuracy_record(questions, scores),
    }
    _print_table(record, lengths)
    if out is not None:
        write_record(Path(out, "state_tracking.json"), record)
        print(f"written to {out}: state_tracking.json")
    return record


def _print_table(record: dict[str, Any], lengths: Sequence[int]) -> None:
    table = Table("family", "chance", *(f"{length:,}" for length in lengths))
    for family, one in record["families"].items():
        table.add_row(family, f"{one['chance']:.3f}", *(f"{one['accuracy_at'][length]:.3f}" for length in lengths))
    Console().print(table)
    print(f"accuracy {record['accuracy']:.3f}, the mean over families and lengths; chance {record['chance']:.3f}")


def write_tasks(folder: Path, documents: Sequence[Document]) -> None:
    """Write one task of lm-evaluation-harness for each family and length, and the groups over them.

    state_tracking.yaml                     the group of all families
    state_tracking_boards.yaml              the group of a family's lengths
    state_tracking_boards_16.yaml, .jsonl   a task, and its documents
    """
    parts: dict[str, dict[str, list[Document]]] = {}
    for document in documents:
        family = f"{GROUP}_{document.family}"
        parts.setdefault(family, {}).setdefault(f"{family}_{document.length}", []).append(document)
    write_whole(folder / f"{GROUP}.yaml", _yaml(_group(GROUP, [*parts])))
    for family, tasks in parts.items():
        write_whole(folder / f"{family}.yaml", _yaml(_group(family, [*tasks])))
        for name, its_documents in tasks.items():
            file = folder / f"{name}.jsonl"
            write_whole(file, "".join(json.dumps(_record(one)) + "\n" for one in its_documents))
            write_whole(folder / f"{name}.yaml", _yaml(_task(name, file, its_documents)))
    print(f"written to {folder}: {len(documents)} documents, {sum(map(len, parts.values()))} tasks. To score a model:")
    print(f"lm_eval --model hf --model_args pretrained=... --include_path {folder} --tasks {GROUP}")


def _record(document: Document) -> dict[str, Any]:
    return {**document._asdict(), "choices": list(document.choices)}


def _group(name: str, tasks: list[str]) -> dict[str, Any]:
    mean = {"metric": "acc", "aggregation": "mean", "weight_by_size": False}
    return {"group": name, "task": tasks, "aggregate_metric_list": [mean], "metadata": {"version": 1}}


def _task(name: str, file: Path, documents: Sequence[Document]) -> dict[str, Any]:
    chance = sum(1 / len(document.choices) for document in documents) / len(documents)
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1, "length": documents[0].length, "chance": chance},
    }


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False)
