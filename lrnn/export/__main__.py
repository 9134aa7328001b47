"""Write a run's model as a Hugging Face folder: python -m lrnn.export --run_dir=runs/pretrain_smoke --out=exported

DeltaNet and DeltaProduct load with flash-linear-attention. Mamba loads with transformers; with range [-1, 1] its folder
holds a modelling file, since transformers' own Mamba has no such transitions.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import save_torch_state_dict

from data.text.tokenizer import load_tokenizer
from lrnn.export.delta_net import export_delta_net
from lrnn.export.delta_product import export_delta_product
from lrnn.export.folder import Exported, write_json
from lrnn.export.mamba import export_mamba
from lrnn.export.tokenizer import write_tokenizer
from lrnn.models import DeltaNet, DeltaProduct, LanguageModel, Mamba
from lrnn.models.class_path import import_path
from lrnn.runtime.checkpoint import load_model
from lrnn.runtime.command import command
from lrnn.runtime.errors import ConfigError
from lrnn.runtime.run_tokenizer import tokenizer_of_run

EXPORTERS: dict[type, Callable[..., Exported]] = {
    DeltaNet: export_delta_net,
    DeltaProduct: export_delta_product,
    Mamba: export_mamba,
}


def export(
    run_dir: str,
    out: str,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Write a Hugging Face folder, and print how to load it.

    Args:
        run_dir: Folder of a run of `python -m lrnn.fit`.
        out: Folder to write, a new or an empty one.
        checkpoint: Checkpoint of that run, a file or a sharded folder; its last one when absent.
        tokenizer: Tokenizer that the model was trained with; when absent, the one that the run's config.yaml names. A
            run on a synthetic task has none.
        max_shard_size: Largest size of a file of weights, in KB, MB, GB or TB.
    """
    if not re.fullmatch(r"(?=.*[1-9])\d+(\.\d+)? ?[KMGT]B", max_shard_size, re.IGNORECASE):
        raise ConfigError(f"max_shard_size: must be a size such as 500MB or 5GB, got {max_shard_size}")
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"out: {out} exists; choose another folder")
    model = load_model(checkpoint or str(Path(run_dir, "checkpoints/last.ckpt")))
    exporter = EXPORTERS.get(type(model))
    if exporter is None:
        *others, last = (import_path(architecture) for architecture in EXPORTERS)
        raise ConfigError(
            f"checkpoint: it holds a {import_path(type(model))}, which has no class in the Hugging Face ecosystem; "
            f"{', '.join(others)} and {last} have one"
        )
    exported = exporter(model, out)
    tokenizer = tokenizer or tokenizer_of_run(Path(run_dir, "config.yaml"))
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
        partial.mkdir(parents=True)
        write_folder(partial, model, exported, tokenizer, max_shard_size)
        partial.replace(folder)
    except OSError as error:
        raise ConfigError(f"out: {out} could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: {type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters. To load it:")
    print(exported.to_load)
    if tokenizer:
        trust = ", trust_remote_code=True" if exported.code else ""  # without it transformers asks the user first
        print(f"tokenizer = transformers.AutoTokenizer.from_pretrained({out!r}{trust})")


def write_folder(
    folder: Path, model: LanguageModel, exported: Exported, tokenizer: str | None, max_shard_size: str
) -> None:
    eos = None
    if tokenizer:
        pieces = load_tokenizer(tokenizer)
        if pieces.vocab_size != exported.config["vocab_size"]:
            vocabulary = exported.config["vocab_size"]
            raise ConfigError(f"tokenizer: {tokenizer} has {pieces.vocab_size} tokens, the model {vocabulary}")
        write_tokenizer(tokenizer, pieces, folder)
        eos = pieces.eos
    ends = {"bos_token_id": eos, "eos_token_id": eos}  # a document begins after the end of the one before
    write_json(folder / "config.json", exported.config | ends | {"pad_token_id": None})
    write_json(folder / "generation_config.json", ends | {"pad_token_id": eos})
    if exported.code:
        shutil.copy(exported.code, folder)
    # clones, since the file format takes no two tensors in the same memory
    weights = {name: weight.detach().clone() for name, weight in exported.weights.items()}
    save_torch_state_dict(weights, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
    for file in folder.glob("*.safetensors"):  # as written, only their owner can read them
        shutil.copymode(folder / "config.json", file)


def main() -> None:
    command(export, "lrnn.export")


if __name__ == "__main__":
    main()
