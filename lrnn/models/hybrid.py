"""A stack of different mixers, such as DeltaNet with attention in every fourth block.

mixers:
  delta: {class_path: lrnn.models.DeltaNetMixer, init_args: {heads: 4}}
  attention: {class_path: lrnn.models.AttentionMixer, init_args: {heads: 4}}
pattern: [delta, delta, delta, attention]
"""

from collections.abc import Callable
from typing import Any

from lrnn.models.language_model import LanguageModel
from lrnn.models.mixer import Layer, Mixer, with_options_at


class Hybrid(LanguageModel):
    """Language model whose blocks take their mixers from a pattern that repeats over the blocks."""

    def __init__(self, mixers: dict[str, Callable[[Layer], Mixer]], pattern: list[str], **kwargs: Any):
        """
        Args:
            mixers: Mixers by a name of your choice, each a class with its own options.
            pattern: Names of the mixers of the blocks, in order. After the last name the pattern starts again.
        """
        if not pattern:
            raise ValueError("model.pattern: must name at least one mixer, got []")
        for name in pattern:
            if name not in mixers:
                raise ValueError(f"model.pattern: must name mixers of model.mixers ({', '.join(mixers)}), got {name}")
        for name in mixers:
            if name not in pattern:
                raise ValueError(f"model.mixers: every mixer must be in model.pattern, which lacks {name}")

        named = {name: with_options_at(f"model.mixers.{name}", mixer) for name, mixer in mixers.items()}

        def make_mixer(layer: Layer) -> Mixer:
            return named[pattern[layer.index % len(pattern)]](layer)

        super().__init__(make_mixer, **kwargs)
        self.record_options({"mixers": mixers, "pattern": pattern, **kwargs})
