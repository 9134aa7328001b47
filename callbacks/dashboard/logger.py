"""The logger of a run: its values as TensorBoard's events, and what makes its dashboards worth opening."""

import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.dashboard.layout import Layout, layout
from callbacks.dashboard.options import END, ROW, columns, end, options, row


class Dashboard(TensorBoardLogger):
    """Writes the values of a run into its folder as TensorBoard's events. Beside the values, it writes

    - the layout of the tab "Custom scalars": the charts of layout.py of which the run has values
    - the row of the run in the tab "HPARAMS": its options and its score
    - for the tab "Text", the command and the resolved configuration

    It leaves out Lightning's `epoch` and `hp_metric`, which say nothing here. A resumed run adds its values to those of
    before, and writes neither the layout nor the row again.
    """

    def __init__(self, run_dir: str, command: Sequence[str]):
        """
        Args:
            run_dir: Folder of the run. Its `config.yaml` is the configuration.
            command: Command that started the run.
        """
        super().__init__(save_dir=run_dir, name="", version="", default_hp_metric=False)
        self._command = _in_lines(command)

    @cached_property
    def _written(self) -> dict[str, set[str]]:
        """The tags in the folder, by kind, also those from before a resume."""
        kinds = ("scalars", "tensors", "images", "histograms")
        if not any(Path(self.log_dir).glob("events.out.tfevents.*")):
            return {kind: set() for kind in kinds}
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # for a resumed run only

        tags = EventAccumulator(self.log_dir, dict.fromkeys(kinds, 1)).Reload().Tags()
        return {kind: set(tags[kind]) for kind in kinds}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        written = self._written["scalars"]
        values = {tag: value for tag, value in metrics.items() if tag != "epoch"}
        super().log_metrics(values, step)
        if not written.issuperset(values):
            before = layout(written)
            written.update(values)
            self._write_layout(layout(written), before)

    def _write_layout(self, now: Layout, before: Layout) -> None:
        if now != before:  # TensorBoard shows the last layout that was written
            charts = {
                category: {title: ["Multiline", [tags]] for title, tags in titles.items()}
                for category, titles in now.items()
            }
            self.experiment.add_custom_scalars(charts)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Write the command, the configuration and the row. `params`, those of the model, go to `hparams.yaml`."""
        written = self._written["tensors"]  # before this process writes
        super().log_hyperparams(params, metrics, step)
        file = Path(self.save_dir, "config.yaml")
        config = file.read_text() if file.exists() else ""
        self.experiment.add_text("command", f"```\n{self._command}\n```")
        self.experiment.add_text("configuration", f"```\n{config}\n```")
        if config and ROW not in written:
            values = options(yaml.safe_load(config))
            self._write(columns(values))
            self._write(row(values))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Mark the row of a run that came to its end, and close the file."""
        if status == "success" and END not in self._written["tensors"]:
            self._write(end())
        super().finalize(status)

    def _write(self, summary: Any) -> None:
        self.experiment._get_file_writer().add_summary(summary)


def _in_lines(command: Sequence[str]) -> str:
    """Return a command for a shell, with a line for each option."""
    words = [shlex.quote(word) for word in command]
    return " ".join(f"\\\n    {word}" if word.lstrip("'").startswith("--") else word for word in words)
