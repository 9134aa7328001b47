"""Options are declared once, reach the command line, and name the class in checkpoints."""

import inspect
from functools import partial

import pytest
from jsonargparse import ArgumentParser

import lrnn.models
from lrnn.models import Architecture, DeltaNet, DeltaNetMixer, Hybrid, LanguageModel, Layer, Mamba, Mixer
from lrnn.models.class_path import import_path, plain

ARCHITECTURES = [cls for cls in vars(lrnn.models).values() if isinstance(cls, type) and issubclass(cls, LanguageModel)]
MIXERS = [cls for cls in vars(lrnn.models).values() if isinstance(cls, type) and issubclass(cls, Mixer)]
CONCRETE = [cls for cls in ARCHITECTURES if cls not in (LanguageModel, Architecture)]


def options_of(cls):
    return list(inspect.signature(cls.__init__).parameters)[1:]


@pytest.mark.parametrize("architecture", CONCRETE)
def test_every_option_is_declared_and_described_once(architecture):
    """An option is declared by the class itself, by its mixer, or by LanguageModel, and by one of them only."""
    own = vars(architecture).get("__init__")
    written = inspect.signature(own).parameters if architecture is Hybrid else {}
    assert not set(written) & set(options_of(LanguageModel)) - {"self"}
    options = options_of(architecture)
    assert len(options) == len(set(options))
    for mixer in MIXERS:
        assert not set(options_of(mixer)) & set(options_of(LanguageModel)) - {"mlp_width", "kwargs"} - {"self"}


@pytest.mark.parametrize("architecture", CONCRETE)
def test_help_describes_every_option(architecture, capsys):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LanguageModel, "model")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--model.help={import_path(architecture)}"])
    lines = capsys.readouterr().out.partition("Help for")[2]
    for entry in lines.split("\n  --")[1:]:
        name, text = entry.split(maxsplit=1)
        if not name.endswith(".help"):
            description = " ".join(text.split()).partition("(type")[0]
            assert len(description.split()) > 3, f"{architecture.__name__}: {name} has no description"


def test_an_option_of_both_is_refused():
    class Twice(Mixer):
        def __init__(self, layer: Layer, learning_rate: float = 1.0):
            super().__init__()

    with pytest.raises(TypeError, match="Twice declares learning_rate, which LanguageModel declares too"):

        class Model(Architecture, mixer=Twice):
            pass

    with pytest.raises(TypeError, match="there is no option colour"):

        class Other(Architecture, mixer=DeltaNetMixer, colour="red"):
            pass


def test_an_architecture_names_its_mixer():
    class Nothing(Architecture):
        pass

    with pytest.raises(TypeError, match="Nothing names no mixer"):
        Nothing()


def test_a_subclass_of_an_architecture_changes_defaults_and_keeps_the_others():
    class Narrow(Mamba, width=16):
        pass

    class Deep(Narrow, layers=3):
        pass

    class Other(Narrow, mixer=DeltaNetMixer):
        pass

    defaults = {"width": 16, "norm_eps": 1e-5, "state_size": 16}
    for architecture, layers in ((Narrow, 2), (Deep, 3)):
        hparams = architecture().hparams
        assert {name: hparams[name] for name in defaults} == defaults and hparams["layers"] == layers
    assert Other().hparams["width"] == 128
    with pytest.raises(TypeError, match="there is no option colour"):

        class Red(Mamba, colour="red"):
            pass


def test_options_are_recorded_as_a_configuration_says_them():
    model = DeltaNet(width=16, heads=2, layers=1)
    assert model.hparams["heads"] == 2 and model.hparams["conv_size"] == 4  # defaults too
    assert model.class_path == "lrnn.models.DeltaNet"
    mixers = {"delta": partial(DeltaNetMixer, heads=2)}
    assert plain(mixers) == {"delta": {"class_path": "lrnn.models.DeltaNetMixer", "init_args": {"heads": 2}}}
    assert Hybrid(mixers, ["delta"], width=16).hparams["mixers"] == plain(mixers)
    with pytest.raises(TypeError, match=r"must be a class or a functools\.partial of one"):
        plain({"delta": lambda layer: DeltaNetMixer(layer)})
