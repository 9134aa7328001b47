"""Save the configuration of a run in its folder, whatever logger the run has."""

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from callbacks.contract import members_of


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder; Lightning's own writes it to wherever the first logger writes."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if members_of(trainer).fast_dev_run:  # it makes no folder
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / "config.yaml", skip_none=False, overwrite=True, multifile=False)
