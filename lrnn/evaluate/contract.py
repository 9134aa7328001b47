"""The contract of scoring: what it asks of a model and of a task. Read this to write one of your own.

Subclasses of `lrnn.models.LanguageModel` and of `data.SyntheticTask` keep it. No class needs to inherit from these
Protocols; it needs the members. callbacks/contract.py says what training asks beside them.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class LabelledTokens(Protocol):
    """A batch of sequences, padded on the right."""

    @property
    def inputs(self) -> Tensor:
        """Token ids (B, T), int64."""

    @property
    def labels(self) -> Tensor:
        """The right answer at each position (B, T), int64; -100 where nothing is scored."""


@runtime_checkable
class RecurrentModel(Protocol):
    """A model that reads a sequence piece by piece.

    Its call, or its `forward` if it is a module, may have a further argument, `positions` (B, P). Scoring then asks for
    the logits (B, P, vocabulary) of those tokens alone, and for none where P is 0.
    """

    training: bool
    """Whether the model is in training mode, as in `torch.nn.Module`."""

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read the next tokens of each sequence.

        Args:
            tokens: token ids (B, T), for any T >= 1.
            state: what the call on the tokens before these returned; None at the start of the sequences.

        Returns:
            The logits (B, T, vocabulary) of the answer at each position, and the state after the last token. Two
            calls on the halves of a sequence give the logits of one call on the whole.
        """

    def eval(self) -> Any:
        """Enter evaluation mode, as in `torch.nn.Module`."""

    def train(self, mode: bool = True) -> Any:
        """Enter training mode, or evaluation mode if `mode` is false, as in `torch.nn.Module`."""


@runtime_checkable
class LengthTask(Protocol):
    """A data module that has evaluation sequences of any length.

    A length counts what the task calls the length of a sequence, which may differ from its number of tokens.
    """

    vocab_size: int
    """Number of different tokens; token ids lie in [0, vocab_size)."""

    chance: float
    """Accuracy of a blind guess, in [0, 1)."""

    train_lengths: tuple[int, int]
    """Shortest and longest training sequence."""

    test_lengths: tuple[int, int]
    """Shortest and longest sequence of the test set, which no training step and no selection sees."""

    test_samples: int
    """Number of sequences in the test set."""

    validation_samples: int
    """Number of sequences in a validation set, by which a recipe may be selected."""

    def evaluation_batches(
        self, shortest: int, longest: int, samples: int, validation: bool = False, tokens: int = 2**17
    ) -> Iterator[LabelledTokens]:
        """Return a fixed set of sequences, the same at every call and in every run.

        Args:
            shortest: shortest length in the set.
            longest: longest length in the set.
            samples: number of sequences in the set.
            validation: whether to return the validation set, which shares no sequence with the test set by design.
            tokens: most tokens of a batch, with padding; a batch has one row if a row is longer than that.

        Raises:
            ValueError: if the task has no sequences of these lengths.
        """


def missing_members(value: object, contract: type) -> list[str]:
    """Return the names of the contract's members that the value lacks, to be named in an error message."""
    names = {*contract.__annotations__, *(name for name in vars(contract) if not name.startswith("_"))}
    return sorted(name for name in names if not hasattr(value, name))
