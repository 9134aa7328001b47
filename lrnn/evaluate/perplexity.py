"""Score language models on long texts, far beyond their training context.

python -m lrnn.evaluate perplexity --checkpoint=runs/pretrain_340m --texts=[codeparrot,math_hard]
python -m lrnn.evaluate perplexity --checkpoint=[runs/a,runs/b] --texts=[notes.txt] --lengths=[1024,65536,262144]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from data.errors import DataError
from lrnn.evaluate.perplexity_figure import perplexity_figure
from lrnn.evaluate.perplexity_scoring import Perplexities, score_perplexity
from lrnn.evaluate.results_file import ResultsFile
from lrnn.evaluate.setting import Precision, choose_device, precision_context
from lrnn.evaluate.subject import Subject, load_subject
from lrnn.evaluate.texts import HUB_TEXTS, token_sequences
from lrnn.models.class_path import import_path
from lrnn.runtime.errors import ConfigError, check_at_least

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


def evaluate_perplexity(
    checkpoint: list[str] | str = "runs/pretrain_smoke",
    texts: Sequence[str] = tuple(HUB_TEXTS),
    lengths: Sequence[int] = LENGTHS,
    sequences: int = 16,
    segment: int = 2048,
    text_key: str = "text",
    tokenizer: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision | None = None,
    out: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Print the perplexity of texts up to and at each of many lengths, and draw it.

    The state is carried from segment to segment, so memory does not grow with the length (except with attention).

    Args:
        checkpoint: Folder of a run, one of its checkpoints, or an exported folder; a list compares several.
        texts: Texts to score on: codeparrot, math_hard, trivia_qa and slimpajama are fetched from the Hugging Face
            hub; else a file, a folder, a pattern or stdlib, as in `python -m data.prepare --source`.
        lengths: Lengths to score at, in tokens. Those that a text is too short for are left out.
        sequences: Largest number of sequences of the longest length, taken one after the other from the text.
        segment: Tokens of a sequence read in one call of the model.
        text_key: Key or column that holds the text, in local files of records.
        tokenizer: Tokenizer of the models; when absent, that of each run or exported folder.
        device: Device of the models; auto takes a GPU if there is one.
        precision: Precision of the models' arithmetic; that of each run when absent.
        out: Folder for perplexity.json, perplexity.png and TensorBoard's events; when absent, the folder `evaluate` in
            each run's folder, and the figure goes to the first one. Several checkpoints in one folder have a file each,
            such as perplexity_2.json.
    """
    checkpoints = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)
    _check(checkpoints, texts, lengths, sequences, segment)
    place = choose_device(device)
    found: dict[str, dict[str, Perplexities]] = {text: {} for text in texts}
    contexts: dict[str, int | None] = {}
    failures: dict[str, str] = {}
    records, folders, encoded = {}, [], _Encoded(lengths, sequences, text_key)
    written: dict[Path, None] = {}
    for path in checkpoints:
        subject = load_subject(path, tokenizer)
        name = subject.name if subject.name not in contexts else path
        contexts[name] = subject.context
        chosen = precision or subject.precision
        context = precision_context(chosen, place)
        folder = Path(out) if out else subject.folder
        shared = folder in folders or (bool(out) and len(checkpoints) > 1)  # with another checkpoint
        folders.append(folder)
        file = ResultsFile(
            folder / (f"perplexity_{len(folders)}.json" if shared else "perplexity.json"),
            {
                "checkpoint": path,
                "step": subject.step,
                "model": import_path(type(subject.model)),
                "tokenizer": subject.tokenizer_name,
                "training_context": subject.context,
                "precision": chosen,
                "segment": segment,
            },
        )
        subject.model.to(place)
        for text in texts:
            try:
                ids = encoded.sequences_of(text, subject)
            except DataError as error:
                failures[text] = str(error)
                continue
            fitting = [length for length in lengths if length < ids.shape[1]]
            scores = score_perplexity(subject.model, ids, fitting, segment=segment, device=place, precision=context)
            found[text][name] = scores
            file.add(text, scores.as_record())
            written[file.path] = None
            _print(name, text, scores)
            _log(folder, name.replace("/", "_") if out or shared else "", text, scores)
        records[name] = file.record
        del subject  # before the next model takes memory
    if written:
        picture = _draw({text: models for text, models in found.items() if models}, contexts, folders[0])
        print(f"written: {', '.join(map(str, (*written, picture)))}")
    if failures:
        raise ConfigError("; ".join(failures.values()))
    return records


class _Encoded:
    """Sequences of the texts, encoded once for each tokenizer."""

    def __init__(self, lengths: Sequence[int], sequences: int, text_key: str):
        self.options = lengths, sequences, text_key
        self.known: dict[tuple[str, str], Tensor] = {}

    def sequences_of(self, text: str, subject: Subject) -> Tensor:
        key = subject.tokenizer_name, text
        if key not in self.known:
            self.known[key] = token_sequences(text, subject.tokenizer, *self.options)
        return self.known[key]


def _check(
    checkpoints: Sequence[str], texts: Sequence[str], lengths: Sequence[int], sequences: int, segment: int
) -> None:
    for name, values in (("checkpoint", checkpoints), ("texts", texts), ("lengths", lengths)):
        if not values:
            raise ConfigError(f"{name}: must name at least one, got []")
    check_at_least(1, lengths=min(lengths), sequences=sequences, segment=segment)


def _print(name: str, text: str, scores: Perplexities) -> None:
    table = Table("tokens", "perplexity up to", "perplexity at", title=f"{name}, {text}, {scores.sequences} sequences")
    for length, running in scores.running_at.items():
        table.add_row(f"{length:,}", f"{running:.3f}", f"{scores.position_at[length]:.3f}")
    Console().print(table)


def _log(folder: Path, name: str, text: str, scores: Perplexities) -> None:
    """Write a curve to TensorBoard, with the length in place of the step."""
    with SummaryWriter(str(folder / name)) as writer:
        for length, running in scores.running_at.items():
            writer.add_scalar(f"perplexity_up_to/{text}", running, length)
            writer.add_scalar(f"perplexity_at/{text}", scores.position_at[length], length)


def _draw(found: dict[str, dict[str, Perplexities]], contexts: dict[str, int | None], folder: Path) -> Path:
    """Draw the curves, in a file and in TensorBoard, and return the path of the file."""
    figure, path = perplexity_figure(found, contexts), folder / "perplexity.png"
    figure.savefig(path, dpi=150)
    with SummaryWriter(str(folder)) as writer:
        writer.add_figure("perplexity", figure)
    return path
