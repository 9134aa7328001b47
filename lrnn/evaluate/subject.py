"""The model that is evaluated, with its tokenizer: of a run's folder, a checkpoint, or an exported folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.text.tokenizer import DEFAULT_TOKENIZER, Tokenizer, load_tokenizer
from lrnn.evaluate.setting import run_config
from lrnn.export.load import is_exported, load_exported
from lrnn.models import LanguageModel
from lrnn.runtime.checkpoint import find_checkpoint, load_model, read_metadata
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.run_tokenizer import tokenizer_of_run


@dataclass(frozen=True)
class Subject:
    """A language model, its tokenizer, and what is known of its training."""

    name: str
    """Name of the run, for tables and figures."""

    checkpoint: str
    """Path that the model was loaded from."""

    folder: Path
    """Folder of the results: `evaluate` in the run's folder, or in the exported folder."""

    model: LanguageModel
    tokenizer: Tokenizer
    tokenizer_name: str
    config: dict[str, Any]
    """Content of the run's config.yaml; empty if there is none."""

    step: int | None
    """Training step of the checkpoint; None if it is unknown."""

    @property
    def context(self) -> int | None:
        """Tokens of a training sequence; None if unknown."""
        return self.config.get("data", {}).get("init_args", {}).get("context")

    @property
    def precision(self) -> str:
        """Precision of the training; 32-true if unknown."""
        return self.config.get("trainer", {}).get("precision") or "32-true"


def load_subject(checkpoint: str, tokenizer: str | None = None) -> Subject:
    """Load a model and its tokenizer.

    Args:
        checkpoint: Folder of a run of `python -m lrnn.fit` (its last checkpoint is taken), one of its checkpoints (a
            file, or a folder of shards), or a folder that `python -m lrnn.export` wrote.
        tokenizer: Tokenizer that the model was trained with; when absent, the exported one, the one that the run's
            config.yaml names, or data/mistral_v1 if there is none.

    Raises:
        DataError: if there is no such tokenizer.
        ConfigError: if there is no such checkpoint, or if the tokenizer has another vocabulary than the model.
    """
    path = Path(checkpoint)
    config: dict[str, Any] = {}
    step: int | None = None
    if is_exported(path):
        run, model, name = path, load_exported(path), tokenizer or checkpoint
        if not tokenizer and not (path / "tokenizer.json").is_file():
            raise ConfigError(f"tokenizer: {checkpoint} holds none; name it, such as --tokenizer={DEFAULT_TOKENIZER}")
    else:
        path = Path(find_checkpoint(checkpoint))
        run = path.absolute().parent.parent
        model, config = load_model(path), run_config(str(path.absolute()))
        step = read_metadata(path).get("global_step")
        name = tokenizer or (tokenizer_of_run(run / "config.yaml") if config else None) or DEFAULT_TOKENIZER
    pieces = load_tokenizer(name)
    if model.vocab_size != pieces.vocab_size:
        raise ConfigError(
            f"tokenizer: {name} has {pieces.vocab_size} tokens, the model {model.vocab_size}; "
            "name the one that it was trained with by --tokenizer"
        )
    label = run.name if path.name in ("last.ckpt", run.name) else f"{run.name} {path.stem}"
    return Subject(label, checkpoint, run / "evaluate", model, pieces, name, config, step)
