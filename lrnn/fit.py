"""Train one model: python -m lrnn.fit --config conf/parity.yaml [--key=value ...]

The command line is LightningCLI. Every option is an argument of a class, and `--help` lists them. `--print_config`
shows the resolved configuration, which is also saved in the run's folder.
"""

import gc

if __name__ == "__main__":
    gc.disable()  # CollectGarbage enables it again

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import data
import lrnn.runtime.kernel_cache  # noqa: F401  sets the cache's folders
from callbacks import (
    CompileTraining,
    CosineWarmup,
    Progress,
    ResumableCheckpoint,
    StopOnNonFinite,
    TrainingDivergedError,
)
from callbacks.atomic_checkpoint_io import write_atomically
from callbacks.collect_garbage import CollectGarbage
from callbacks.dashboard.logger import Dashboard
from callbacks.gradient_order import GradientOrder
from data import DataError
from data.resumable import ResumableData
from lrnn.models import LanguageModel
from lrnn.runtime.card import check_card
from lrnn.runtime.config_kind import refuse_sweep_configs
from lrnn.runtime.devices import check_devices
from lrnn.runtime.errors import ConfigError, check_at_least
from lrnn.runtime.linked_options import refuse_linked_options
from lrnn.runtime.null_options import refuse_null, refuse_null_of
from lrnn.runtime.one_line import one_line
from lrnn.runtime.parent import end_with_launcher, launching, let_launcher_fail_first
from lrnn.runtime.record_forms import RecordForms
from lrnn.runtime.resumable import check_resumable
from lrnn.runtime.save_config import SaveConfig
from lrnn.runtime.weight_averaging import refuse_weight_averaging

# errors of the parser, and of classes that are given values they can't use
UNFIT = (
    ArgumentError,
    MisconfigurationException,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    OSError,
)

DESCRIPTION = (
    "Train one model on one task or on text. A YAML of conf/ sets the options, as in --config conf/parity.yaml, and "
    "options of the command line override it."
)
TITLES = {  # of groups of options in --help
    "trainer": "Lightning's Trainer",
    "model": "Architecture. --model.help=lrnn.models.DeltaNet lists the options of a class",
    "data": "Task or text. --data.help=data.Parity lists the options of a class",
    "schedule": "Learning rate: a linear warm-up, then half a cosine down to a minimum",
    "compile": "Compilation on a GPU. On a CPU nothing is compiled",
}


class FitCLI(LightningCLI):
    """LightningCLI without subcommands, and with a folder for each run."""

    def __init__(self, args: Sequence[str] | None, extra_callbacks: Sequence[L.Callback] = ()):
        self.extra_callbacks = list(extra_callbacks)
        self.arguments = sys.argv[1:] if args is None else list(args)
        for name in data.__all__:  # imports the class, so that --help lists it and --data=Parity finds it
            getattr(data, name)
        super().__init__(
            LanguageModel,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,  # the model makes its optimizer, which knows what gets no weight decay
            parser_kwargs={
                "parser_mode": "omegaconf",
                "exit_on_error": False,
                "prog": "python -m lrnn.fit",
                "description": DESCRIPTION,
            },
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            run=False,
            args=args if args is None else list(args),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:  # here and not in `fit`, which does not get to know the parser
            raise ConfigError(one_line(str(error), self.arguments, [*parser.get_defaults().keys()])) from error

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if isinstance(self.datamodule, ResumableData):
            resolved = json.loads(self.parser.dump(self.config, format="json", skip_none=False))
            self.datamodule.record_options(resolved["data"].get("init_args", {}))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str, required=True, help="Folder of the run, for logs, checkpoints and results."
        )
        parser.add_argument(
            "--resume", type=bool, default=False, help="Whether to continue from the run folder's last checkpoint."
        )
        parser.add_argument(
            "--checkpoint_every", type=int, default=1000, help="Number of optimizer steps between checkpoints."
        )
        parser.add_lightning_class_args(CosineWarmup, "schedule")
        parser.add_lightning_class_args(CompileTraining, "compile")
        groups = parser.groups or {}
        for key, title in TITLES.items():
            groups[key].title = title
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.link_arguments("data.vocab_size", "model.init_args.vocab_size", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        clip = self.config.trainer.gradient_clip_val
        if clip is not None and not clip >= 0:  # a negative value would reverse the gradient
            raise ConfigError(f"trainer.gradient_clip_val: must be at least 0, got {clip}")
        for key in ("model", "data", "trainer.callbacks"):
            refuse_null(self.config[key], key)
        for key, of in (("schedule", CosineWarmup), ("compile", CompileTraining)):
            refuse_null_of(of, self.config[key], key)
        every, steps = self.config.checkpoint_every, self.config.trainer.max_steps
        check_at_least(1, checkpoint_every=every)
        if steps < 1:
            raise ConfigError(f"trainer.max_steps: must be at least 1, since the schedule ends there, got {steps}")
        self._check_machine()
        self._check_run_dir()
        options = self.config.data.get("init_args") or {}
        if "seed" in options:  # by the link, which has seen seed_everything=true and not what Lightning made of it
            options["seed"] = int(self.config.seed_everything)

    def _check_machine(self) -> None:
        trainer = self.config.trainer
        check_devices(trainer.accelerator, trainer.devices)
        check_card(trainer.accelerator, self.config.model.get("init_args", {}).get("form"))
        started = "NODE_RANK" in os.environ or TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
        if trainer.num_nodes > 1 and not started:
            raise ConfigError(
                f"trainer.num_nodes: {trainer.num_nodes} nodes are started by torchrun or srun (conf/README.md); "
                "on one machine, set --trainer.num_nodes=1"
            )

    def _check_run_dir(self) -> None:
        run_dir, root = Path(self.config.run_dir), self.config.trainer.default_root_dir
        if root is not None and Path(root) != run_dir:
            raise ConfigError(f"trainer.default_root_dir: is run_dir, {run_dir}; set run_dir instead, got {root}")
        if self.config.resume and not run_dir.exists():
            raise ConfigError(f"resume: there is no folder {run_dir}; start the run without --resume")
        # on other ranks the folder may exist already, since the first rank makes it
        first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        if first and not self.config.resume and run_dir.exists():
            raise ConfigError(f"run_dir: {run_dir} exists; choose another folder, or continue it with --resume=true")

    @property
    def checkpoint(self) -> Path:
        return Path(self.config.run_dir, "checkpoints", "last.ckpt")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run_dir = self.config.run_dir
        checkpoint = ResumableCheckpoint(str(self.checkpoint.parent), self.config.checkpoint_every)
        progress = [] if self.config.trainer.enable_progress_bar is False else [Progress()]
        # Lightning adds these callbacks to the configured ones
        self.trainer_defaults = {
            "callbacks": [
                StopOnNonFinite(),
                GradientOrder(),
                CollectGarbage(),
                checkpoint,
                RecordForms(run_dir),
                *progress,
                *self.extra_callbacks,
            ]
        }
        kwargs["default_root_dir"] = run_dir  # where callbacks write
        if self.config.trainer.logger in (None, True):
            kwargs["logger"] = Dashboard(run_dir, ["python", "-m", "lrnn.fit", *self.arguments])
        trainer = super().instantiate_trainer(**kwargs)
        refuse_weight_averaging(trainer.callbacks)  # type: ignore[attr-defined]
        write_atomically(trainer.strategy)
        for logger in trainer.loggers:
            say_if_outside(logger, Path(run_dir))
        return trainer


def fit(args: Sequence[str] | None = None, extra_callbacks: Sequence[L.Callback] = ()) -> FitCLI:
    """Train one model.

    Args:
        args: Arguments of the command line; those of this process when absent.
        extra_callbacks: Callbacks beside the configured ones.

    Raises:
        ConfigError: before the first step, if the arguments do not fit together.
    """
    end_with_launcher()
    arguments = sys.argv[1:] if args is None else args
    refuse_sweep_configs(arguments)
    refuse_linked_options(arguments)
    try:
        cli = FitCLI(args, extra_callbacks)
        checkpoint = cli.checkpoint if cli.config.resume and cli.checkpoint.exists() else None
        if checkpoint:
            check_resumable(checkpoint, cli.model, cli.datamodule, cli.trainer)
        elif cli.config.resume:
            rank_zero_info(f"resume: {cli.config.run_dir} has no checkpoint, so the run starts at its first step")
    except UNFIT as error:
        raise ConfigError(one_line(str(error), arguments)) from error
    try:
        with launching():
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint)
    except (DataError, MisconfigurationException) as error:  # a fault that shows only with the data and the devices
        raise ConfigError(one_line(str(error), arguments)) from error
    except OSError as error:  # it names a file, not an option: a full disk, for example
        raise ConfigError(one_line(str(error))) from error
    except TrainingDivergedError:
        raise
    except Exception as error:
        if cli.trainer.global_step > 0:
            raise
        raise ConfigError(before_first_step(error, cli, arguments)) from error
    return cli


def before_first_step(error: Exception, cli: FitCLI, arguments: Sequence[str]) -> str:
    """Return one line for an error that an option most likely caused, and keep its traceback in the run's folder."""
    file = Path(cli.config.run_dir, "traceback.txt")
    if cli.trainer.is_global_zero:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)))
    message = f"no step was taken, see {file}; {type(error).__name__}: {error!s}"
    return one_line(message, arguments)


def say_if_outside(logger: Logger, run_dir: Path) -> None:
    """Say where a logger writes, if not in the run's folder."""
    folder = getattr(logger, "log_dir", None) or logger.save_dir
    if folder and not Path(folder).absolute().is_relative_to(run_dir.absolute()):
        rank_zero_info(f"trainer.logger: {type(logger).__name__} writes to {folder}, outside of run_dir, {run_dir}")


def configure_output() -> None:
    """Show what lrnn logs, and hide two deprecations inside Lightning that every start would print."""
    logging.getLogger("lrnn").addHandler(logging.StreamHandler())
    logging.getLogger("lrnn").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*weights_only.*")


def main() -> None:
    configure_output()
    try:
        fit()
    except (ConfigError, TrainingDivergedError) as error:
        let_launcher_fail_first()
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
