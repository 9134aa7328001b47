"""The contract of a mixer, and what a mixer is told about its place in the model."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor, nn

from lrnn.ops import Form

MixerState = tuple[Tensor, ...]


@dataclass(frozen=True)
class Layer:
    """Place of a block in its model, and the settings that all blocks share.

    Attributes:
        width: size of the hidden states.
        index: position of the block, 0 for the first.
        count: number of blocks.
        norm_eps: epsilon of the norms.
        form: form that the ops run in.
        residual: whether the block adds its branches to the residual stream, or returns them in place of it.
    """

    width: int
    index: int = 0
    count: int = 1
    norm_eps: float = 1e-6
    form: Form = "auto"
    residual: bool = True


class Mixer(nn.Module, ABC):
    """Maps hidden states and a state to hidden states and the state after them.

    A subclass is made with a `Layer` and then its own options: `DeltaNetMixer(layer, heads=4)`. A mixer that mixes
    tokens stands first in a block; a mixer that mixes channels, such as an MLP, stands second.
    """

    pointwise = False  # whether each token is mapped by itself, so that tokens can be left out
    has_auxiliary_terms = False
    """Whether the training loss has terms of this mixer (lrnn/models/auxiliary_terms.py).

    `forward` then takes a third argument, `terms`. It is None, or in training a dictionary to which the mixer adds its
    terms, scalars by name: `terms["name"] = strength * penalty`. The model adds them to the loss and logs each as
    `train/name`.
    """

    @property
    def recurrent_size(self) -> int:
        """Size of the recurrent state of one sequence; 0 if the mixer has none that can be compared.

        States can be compared if sequences with equal states have equal futures. The recurrent state is the last tensor
        of a mixer's state. The state of a convolution is another one.
        """
        return 0

    @property
    def recurrent_parts(self) -> int:
        """Number of parts of the recurrent state, all of one size, that a norm makes count alike: the heads."""
        return 1

    @abstractmethod
    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        """Read T tokens, for any T >= 1.

        The same call trains on whole sequences, reads a long sequence piece by piece, and decodes token by token.

        Args:
            x: normalised hidden states (B, T, width).
            state: state after the tokens before these; None at the start of a sequence.

        Returns:
            the branch (B, T, width) that is added to the residual stream, and the state after the last token. Each
            tensor of a state has the batch in its first dimension. It is no view of a tensor with all tokens, which
            would stay in memory as long as the state.
        """

    def advance(self, x: Tensor, state: MixerState | None = None) -> MixerState:
        """Return the state after T tokens, as `forward` does, with its gradient, where the branches are not needed."""
        after: MixerState = self(x, state)[1]
        return after

    def recurrence_flops(self, context: int) -> int:
        """Count the operations of the forward pass for a token, without those of the weights; 0 if negligible.

        Args:
            context: tokens in a training sequence.
        """
        return 0


def with_options_at(key: str, make_mixer: Callable[[Layer], Mixer]) -> Callable[[Layer], Mixer]:
    """Return `make_mixer` with errors that name the mixer's options at `key`, as in model.channel_mixer.heads.

    A mixer calls its options model.heads, as they are those of the model in an architecture. The settings of a `Layer`,
    such as model.width, are the model's everywhere.
    """
    settings = "|".join(field.name for field in fields(Layer))

    def make(layer: Layer) -> Mixer:
        try:
            return make_mixer(layer)
        except ValueError as error:
            raise ValueError(re.sub(rf"\bmodel\.(?!(?:{settings})\b)", f"{key}.", str(error))) from error

    return make
