"""Record which form, or which kernel, each op of a run uses."""

import json
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.contract import members_of
from callbacks.retire import retire
from lrnn.ops import forms_in_use


class RecordForms(L.Callback):
    """Writes `forms_in_use.json` into the run's folder after the first batch, when the ops have chosen."""

    def __init__(self, run_dir: str):
        self.path = Path(run_dir, "forms_in_use.json")

    def on_fit_start(self, *_: Any) -> None:
        forms_in_use.clear()  # of the runs before in this process

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and not members_of(trainer).fast_dev_run:  # it makes no folder
            self.path.write_text(json.dumps(forms_in_use, indent=1) + "\n")
        retire(self, trainer)
