"""Refuse to score weights while Lightning averages them."""

from collections.abc import Iterable

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from callbacks import BestWeights, ChoiceAccuracy, LengthGeneralization, PerplexityByLength
from lrnn.runtime.errors import ConfigError

SCORING = BestWeights, ChoiceAccuracy, LengthGeneralization, PerplexityByLength


def refuse_weight_averaging(callbacks: Iterable[L.Callback]) -> None:
    """Raise ConfigError if one callback averages the weights and another one scores them.

    Lightning gives a model its averaged weights for validation and at the end of training. Whether a callback scores
    these or the others depends on the order of the callbacks, and no order is right in both places.
    """
    names = {of: [type(x).__name__ for x in callbacks if isinstance(x, of)] for of in (WeightAveraging, SCORING)}
    if names[WeightAveraging] and names[SCORING]:
        raise ConfigError(
            f"trainer.callbacks: must not have both {names[WeightAveraging][0]} and {names[SCORING][0]}; after "
            "training, python -m lrnn.evaluate scores the averaged weights"
        )
