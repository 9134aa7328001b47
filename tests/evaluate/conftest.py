"""Small models that the tests of scores share."""

from functools import partial

import pytest

from lrnn.models import AttentionMixer, DeltaNet, DeltaNetMixer, Hybrid, Mamba

SMALL = {"vocab_size": 50, "width": 32, "layers": 2}
MIXERS = {"delta": partial(DeltaNetMixer, heads=2), "attention": AttentionMixer}
MODELS = {
    "DeltaNet": partial(DeltaNet, heads=2, **SMALL),
    "Mamba": partial(Mamba, **SMALL),
    "Hybrid": partial(Hybrid, MIXERS, list(MIXERS), **SMALL),
}


@pytest.fixture(params=MODELS)
def small_model(request):
    """A model of 50 tokens: DeltaNet, Mamba, and a stack of DeltaNet and attention."""
    return MODELS[request.param]()
