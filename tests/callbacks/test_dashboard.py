"""What a run writes for TensorBoard, as TensorBoard's own backend reads it."""

import re
import runpy
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.get_experiment import Handler as Experiment
from tensorboard.plugins.hparams.list_session_groups import Handler as SessionGroups

from callbacks.dashboard.card import fit_card
from callbacks.dashboard.layout import CHARTS, layout
from lrnn.evaluate.length_figure import length_figure
from lrnn.fit import fit

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=conf/parity.yaml",
    "--data.batch_size=4",
    "--data.validation_samples=8",
    "--data.test_samples=8",
    "--trainer.callbacks=callbacks.LengthGeneralization",
    "--trainer.callbacks.lengths=[4,8]",
    "--trainer.callbacks.final_lengths=[16]",
    "--trainer.callbacks.samples=4",
    "--trainer.callbacks+=callbacks.Throughput",
    "--trainer.max_steps=8",
    "--checkpoint_every=2",
    "--trainer.val_check_interval=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)
# one tag of every kind that is logged anywhere, by category
TAGS = {
    "Learning": "train/loss val/loss val/accuracy train/gate_saturation train/learning_rate train/gradient_norm",
    "Length generalization": "length/40 length/test length/selection sequence_accuracy/8 label_accuracy/8",
    "Text": "val/perplexity",
    "Eigenvalues": "eigenvalues/least eigenvalues/share_negative eigenvalues/share_complex_of_products "
    "eigenvalues/distance_from_1 eigenvalues/horizon",
    "Speed": "speed/tokens_per_second speed/share_of_peak speed/share_waiting speed/memory_gib train/tokens",
}
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with one run on parity for each range, of which the second was interrupted after step 5 and resumed."""

    class Interrupt(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        fit([*TINY, f"--run_dir={folder}/negative"])
        positive = [*TINY, f"--run_dir={folder}/positive", "--model.eigenvalue_range=[0,1]"]
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(positive, [Interrupt()])
        fit([*positive, "--resume=true"])
    return folder


def values_written(run):
    """All values of a run's event files, in the order in which they were written."""
    files = sorted(run.glob("events.out.tfevents.*"))
    return [value for file in files for event in EventFileLoader(str(file)).Load() for value in event.summary.value]


def backend(folder):
    events = EventMultiplexer(tensor_size_guidance={"scalars": 0}).AddRunsFromDirectory(str(folder))
    events.Reload()
    return events, TBContext(data_provider=MultiplexerDataProvider(events, str(folder)), logdir=str(folder))


def test_every_chart_of_the_layout_shows_a_value_and_no_card_is_a_constant(runs):
    events, context = backend(runs)
    charts = yaml.safe_load(CustomScalarsPlugin(context).layout_impl(RequestContext(), ""))["category"]
    assert [category["title"] for category in charts] == ["Learning", "Length generalization", "Speed"]
    titles = [chart["title"] for category in charts for chart in category["chart"]]
    assert len(titles) == len(set(titles))  # the layouts of the two runs are one
    for run, of_run in events.Runs().items():
        scalars = of_run["tensors"]
        for category in charts:
            for chart in category["chart"]:
                (pattern,) = chart["multiline"]["tag"]
                assert any(re.match(pattern, tag) for tag in scalars), (run, chart)
        assert not {"epoch", "hp_metric"} & set(scalars)
    (lengths,) = (chart for category in charts for chart in category["chart"] if "each length" in chart["title"])
    shown = {tag for tag in scalars if re.match(lengths["multiline"]["tag"][0], tag)}
    assert shown == {"length/4", "length/8", "length/16"}


def test_the_table_compares_runs_by_their_scores(runs):
    events, context = backend(runs)
    context = Context(context)
    asked = api_pb2.GetExperimentRequest(include_metrics=True)
    experiment = Experiment(RequestContext(), context, "", asked).run()
    first = [info.name for info in experiment.hparam_infos[:5]]
    assert set(first) == {"model", "model.eigenvalue_range", "model.learning_rate", "data", "seed_everything"}
    assert [metric.name.tag for metric in experiment.metric_infos] == ["length/test", "val/perplexity"]
    asked = api_pb2.ListSessionGroupsRequest(
        col_params=[api_pb2.ColParams(metric=api_pb2.MetricName(tag="length/test"))],
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        include_metrics=True,
    )
    rows = SessionGroups(RequestContext(), context, "", asked).run().session_groups
    assert {row.name for row in rows} == {"negative", "positive"}
    for row in rows:
        (score,) = row.metric_values
        last = events.Tensors(row.name, "length/test")[-1]
        assert score.value == pytest.approx(last.tensor_proto.float_val[0])
        assert row.hparams["model.eigenvalue_range"].string_value.startswith("[-1" if row.name == "negative" else "[0")
        assert row.hparams["model"].string_value == "DeltaNet"
        assert row.hparams["model.learning_rate"].number_value == 0.01


def test_the_command_and_the_configuration_are_texts(runs):
    (command,) = [value for value in values_written(runs / "negative") if value.tag.startswith("command")]
    text = command.tensor.string_val[0].decode()
    assert text.startswith("```\npython -m lrnn.fit \\\n    --config=conf/parity.yaml \\\n")
    assert f"    --run_dir={runs}/negative" in text
    *_, configuration = [value for value in values_written(runs / "positive") if value.tag.startswith("configuration")]
    text = configuration.tensor.string_val[0].decode().strip("`")
    assert yaml.safe_load(text) == yaml.safe_load((runs / "positive/config.yaml").read_text())
    assert yaml.safe_load(text)["resume"] is True


def test_a_resumed_run_goes_on_with_its_values_and_repeats_no_layout_and_no_row(runs):
    once, resumed = (values_written(runs / name) for name in ("negative", "positive"))
    for tag in ("custom_scalars__config__", "_hparams_/experiment", "_hparams_/session_start_info"):
        counts = [sum(value.tag == tag for value in values) for values in (once, resumed)]
        assert counts[0] == counts[1] > 0, tag
    events, _ = backend(runs)
    assert [event.step for event in events.Tensors("positive", "train/loss")] == list(range(8))


def test_every_tag_is_in_one_chart_and_every_chart_is_used():
    for category, tags in TAGS.items():
        for tag in tags.split():
            assert [len(titles) for titles in layout([tag]).values()] == [1] and list(layout([tag])) == [category], tag
    every = layout([tag for tags in TAGS.values() for tag in tags.split()])
    assert every == CHARTS and list(every) == list(CHARTS)
    assert layout(["length_of_a_user", "mine/train/loss"]) == {}


@pytest.mark.parametrize("names", [1, 3, 5])
def test_a_figure_fits_its_card(names):
    curves = {f"run {i}": [{40: 1.0, 64: 0.9, 256: 0.7, 512: 0.5, 1024: 0.1, 16384: 0.0}] for i in range(names)}
    figure = fit_card(length_figure(curves, 40))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    assert width == 2 * height  # a card is wider than high
    (axes,), (legend,) = figure.axes, figure.legends
    covered, drawn = legend.get_window_extent(), axes.get_window_extent()
    assert covered.x1 <= width and covered.y1 <= height
    assert covered.width * covered.height < width * height / 4
    assert drawn.width * drawn.height > 0.45 * width * height and not covered.overlaps(drawn)
    edges = sorted((box.x0, box.x1) for box in (label.get_window_extent() for label in axes.get_xticklabels()))
    assert np.all(np.diff(np.ravel(edges)) > 0)  # no two labels touch


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium")
def test_the_dashboards_in_a_browser(runs):
    look = runpy.run_path(str(ROOT / "tests/screenshot.py"))
    with look["tensorboard"](runs) as address, look["page"](1600, 2400) as page:
        text = page.open(f"{address}#custom_scalars", r"^(?!.*Matches \(0\)).*Speed 2.*Matches")
        for title in ("Learning 5 loss", "Length generalization 2 scaled accuracy at each length", "Speed 2"):
            assert title in text
        assert text.count("Matches (") == 9
        assert "length/16 (negative)" in text and "length/16 (positive)" in text

        text = page.open(f"{address}#timeseries", r"length \d+ cards", "train 4 cards", "length_generalization")
        assert "epoch" not in text and "hp_metric" not in text

        columns = "model.eigenvalue_range model.learning_rate seed_everything scaled accuracy on the test lengths"
        page.open(f"{address}#hparams", columns, "negative (DeltaNet|Parity)", "positive (DeltaNet|Parity)")
        page.open(f"{address}#text", r"python -m lrnn\.fit \\ --config=conf", r"class_path: lrnn\.models\.DeltaNet")

        page.open(f"{address}#images", "length_generalization 2")
        shapes = page.wait_for(look["IMAGES"])
        for drawn, shown in shapes:
            assert shown == pytest.approx(drawn, rel=0.02)  # not squeezed
