"""The options of a run as a row of TensorBoard's tab "HPARAMS", beside its scores."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS, Experiment, HParamInfo, MetricInfo, MetricName
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

ROW, END = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG

# tag of each score -> its name in the table
SCORES = {"length/test": "scaled accuracy on the test lengths", "val/perplexity": "validation perplexity"}
# TensorBoard shows five columns at first: these
SHOWN = ("model", "model.eigenvalue_range", "model.learning_rate", "data", "seed_everything")
OTHERS = ("model.", "data.", "schedule.", "trainer.max_steps", "trainer.precision", "trainer.accumulate_grad_batches")

Value = str | float | bool


def options(config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the options of a run by their names on the command line, such as `model.learning_rate`.

    Args:
        config: resolved configuration, as in a run's `config.yaml`.
    """
    return {name: value for name, value in _flat(config) if name in SHOWN or name.startswith(OTHERS)}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and "class_path" in value:
            yield prefix + name, value["class_path"].rpartition(".")[2]
            yield from _flat(value.get("init_args") or {}, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value if isinstance(value, Value) else str(value)


def columns(names: Mapping[str, Value]) -> Summary:
    """Return the columns of the table: these options, and the scores.

    TensorBoard takes the columns of all runs from one of them, whichever it reads first. So every run names both
    scores, and the options that all runs have are marked as different, which puts them in front.
    """
    infos = [HParamInfo(name=name, differs=name in SHOWN) for name in names]
    scores = [MetricInfo(name=MetricName(tag=tag), display_name=name) for tag, name in SCORES.items()]
    return _summary(metadata.EXPERIMENT_TAG, experiment=Experiment(hparam_infos=infos, metric_infos=scores))


def row(values: Mapping[str, Value]) -> Summary:
    """Return the row of a run that starts. The name of the run is its name, so that equal options are two rows."""
    summary: Summary = hparams_pb(values, trial_id="")
    return summary


def end() -> Summary:
    """Return the mark of a run that came to its end."""
    return _summary(END, session_end_info=SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time()))


def _summary(tag: str, **data: Any) -> Summary:
    about = metadata.create_summary_metadata(HParamsPluginData(**data))
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
