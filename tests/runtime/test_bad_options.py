"""A mistake in an option is answered by one line that names the option and what it may be."""

import pytest

from lrnn.fit import fit
from lrnn.runtime.errors import ConfigError

PARITY, GROUPS, HYBRID = (f"--config=conf/{name}.yaml" for name in ("parity", "groups", "hybrid"))
CALLBACK = "--trainer.callbacks=callbacks.LengthGeneralization"
MIXER = "must be the import path of a Mixer, got"
STAGE = "data.curriculum.Stage"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [PARITY, "--data.seed=7"],
            "data.seed: is seed_everything; set --seed_everything instead, got --data.seed=7",
        ),
        (
            [PARITY, "--data={class_path: data.Parity, init_args: {seed: 7}}"],
            "data.seed: is seed_everything; set --seed_everything instead, got --data={class_path: data.Parity, "
            "init_args: {seed: 7}}",
        ),
        (
            [PARITY, "--model.vocab_size=77"],
            "model.vocab_size: is that of the data; leave it out, got --model.vocab_size=77",
        ),
        ([PARITY, "--data.batch_size=0"], "data.batch_size: must be at least 1, got 0"),
        ([PARITY, "--data.num_workers=-1"], "data.num_workers: must be at least 0, got -1"),
        (
            [PARITY, "--seed_everything=1048576"],
            "data.seed: is seed_everything, and must lie in [0, 1048576), got 1048576",
        ),
        ([PARITY, "--data.evaluation_seed=-1"], "data.evaluation_seed: must lie in [0, 1048576), got -1"),
        ([PARITY, "--data.test_samples=0"], "data.test_samples: must be at least 1, got 0"),
        (
            [PARITY, "--data.test_lengths=[5,3]"],
            "data.test_lengths: must be [shortest, longest] with 2 <= shortest <= longest, got [5, 3]",
        ),
        (
            [GROUPS, "--data.curriculum=[{lengths: [2,2], samples: 0}]"],
            "data.curriculum: a stage must have at least 1 sample, got 0",
        ),
        ([PARITY, "--data=data.CycleNavigation", "--data.modulus=1"], "data.modulus: must be at least 2, got 1"),
        ([GROUPS, "--data.tokens_per_element=0"], "data.tokens_per_element: must be at least 1, got 0"),
        ([GROUPS, "--data.alphabet=[1,1]"], "data.alphabet: must list different elements in [0, 6), got [1, 1]"),
        (
            [GROUPS, "--data.group=S9"],
            "data.group: S9 has more than 5,040 elements, the most that can be tabulated",
        ),
        (
            [PARITY, "--data=data.StateTrackingText", "--data.families=[]"],
            "data.families: must be different ones of variables, counters, recall, repl, negations, boards, got []",
        ),
        (
            [PARITY, "--data=data.StateTrackingText", "--data.tokenizer=x.model"],
            "data.tokenizer: x.model is not a file, a folder, or an owner/name of the Hugging Face hub",
        ),
        ([PARITY, "--schedule.min_lr=0.1"], "schedule.min_lr: must be at most model.learning_rate (0.01), got 0.1"),
        ([PARITY, "--data.batch_size=null"], "data.batch_size: must not be null"),
        ([PARITY, "--data.supervision=null"], "data.supervision: must not be null"),
        ([PARITY, "--model.heads=null"], "model.heads: must not be null"),
        ([PARITY, CALLBACK, "--trainer.callbacks.samples=null"], "trainer.callbacks.samples: must not be null"),
        ([PARITY, CALLBACK, "--trainer.callbacks.samples=0"], "samples: must be at least 1, got 0"),
        (
            [PARITY, CALLBACK, "--trainer.callbacks.segment=0.5"],
            "trainer.callbacks.segment: must be a whole number or null, got 0.5",
        ),
        ([PARITY, "--trainer.gradient_clip_val=-0.5"], "trainer.gradient_clip_val: must be at least 0, got -0.5"),
        (
            [PARITY, CALLBACK, "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"],
            "trainer.callbacks: must not have both EMAWeightAveraging and LengthGeneralization; after training, "
            "python -m lrnn.evaluate scores the averaged weights",
        ),
        ([PARITY, "--schedule.warmup=half"], "schedule.warmup: must be a number, got half"),
        ([PARITY, "--data.supervision=all"], "data.supervision: must be one of last, every_prefix, got all"),
        ([GROUPS, "--data.train_lengths=[32]"], "data.train_lengths: must be a list with 2 elements, got [32]"),
        ([GROUPS, "--data.generators=[1,0]"], "data.generators: must be list[list[int]] or null, got [1, 0]"),
        ([GROUPS, "--data.alphabet=[1.5,2]"], "data.alphabet: must be list[int] or a text, got [1.5, 2]"),
        ([GROUPS, "--data.curriculum=short"], "data.curriculum: must be list[Stage] or null, got short"),
        ([GROUPS, "--data.curriculum=[{lengths: [2,2]}]"], f"data.curriculum: {STAGE} needs samples"),
        (
            [GROUPS, "--data.curriculum=[{lengths: [2,2], samples: 1.5}]"],
            "data.curriculum.samples: must be a whole number, got 1.5",
        ),
        (
            [GROUPS, "--data.curriculum=[{lengths: [2,2], steps: 5}]"],
            f"data.curriculum.steps: {STAGE} has no such option",
        ),
        (
            [PARITY, "--model.channel_mixer=lrnn.models.MLP", "--model.channel_mixer.hidden=x"],
            "model.channel_mixer.hidden: must be a whole number, got x",
        ),
        (
            [PARITY, "--trainer.max_stepz=5"],
            "trainer.max_stepz: there is no such option; did you mean trainer.max_steps or trainer.max_time?",
        ),
        (
            [PARITY, "--schedule.warmupp", "3"],
            "schedule.warmupp: there is no such option; did you mean schedule.warmup?",
        ),
        ([PARITY, "--trainer.zzz=5"], "trainer.zzz: there is no such option; --help lists what is allowed"),
        (
            [PARITY, "--optimizer.lr=1"],
            "optimizer.lr: there is no such option; the model makes its optimizer (configure_optimizers), and "
            "--schedule sets the rate",
        ),
        (
            [PARITY, "--model=DeltaNett"],
            "model: must be the import path of a LanguageModel, got DeltaNett; did you mean lrnn.models.DeltaNet?",
        ),
        (
            [PARITY, "--model=lrnn.models.Mixer"],
            "model: must be the import path of a LanguageModel, got lrnn.models.Mixer; lrnn.models has MLSTM, SLSTM, "
            "DeltaNet, DeltaProduct, Diagonal, FullMatrix, Hybrid, Mamba, TokenMatrices, Transformer",
        ),
        ([PARITY, "--model=mine.Mean"], "model: No module named 'mine'"),
        ([PARITY, "--model=json.Mean"], "model: module 'json' has no attribute 'Mean'"),
        (
            [PARITY, "--model.channel_mixer=MLPP"],
            f"model.channel_mixer: {MIXER} MLPP; did you mean lrnn.models.MLP?",
        ),
        (
            [HYBRID, "--model.mixers.delta=lrnn.models.DeltaNetMixr"],
            f"model.mixers.delta: {MIXER} lrnn.models.DeltaNetMixr; did you mean lrnn.models.DeltaNetMixer?",
        ),
        (
            [HYBRID, "--model.mixers.delta={class_path: lrnn.models.DeltaNet, init_args: {heads: 4}}"],
            f"model.mixers.delta: {MIXER} lrnn.models.DeltaNet; did you mean lrnn.models.DeltaNetMixer?",
        ),
    ],
)
def test_the_option_and_its_values_are_named(options, message, tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    with pytest.raises(ConfigError) as error:
        fit([*options, f"--run_dir={tmp_path}/run"])
    assert str(error.value) == message


def test_a_file_that_sets_the_seed_of_the_data_is_refused(tmp_path):
    """Another seed would silently take its place."""
    (tmp_path / "mine.yaml").write_text("data: {init_args: {seed: 7}}")
    with pytest.raises(ConfigError, match=r"data\.seed: is seed_everything; .*, got .*/mine.yaml"):
        fit([PARITY, f"--config={tmp_path}/mine.yaml", f"--run_dir={tmp_path}/run"])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("trainer: {max_stepz: 5}", "trainer.max_stepz: there is no such option; did you mean trainer.max_steps"),
        ("modell: {width: 5}", "modell.width: there is no such option"),
        ("trainer: {callbacks: [callbacks.Spektrum]}", "trainer.callbacks: .* did you mean callbacks.Spectrum?"),
    ],
)
def test_a_misspelt_option_of_a_file_is_named(mistake, message, tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    (tmp_path / "mine.yaml").write_text(mistake)
    with pytest.raises(ConfigError, match=message):
        fit([PARITY, f"--config={tmp_path}/mine.yaml", f"--run_dir={tmp_path}/run"])
