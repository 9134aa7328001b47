"""What a family of stories is. A new one is a class here or beside it, and an entry of FAMILIES (documents.py)."""

from abc import ABC, abstractmethod
from random import Random
from typing import Any, NamedTuple


class Question(NamedTuple):
    """A question about the present state of the world.

    Attributes:
        text: What the answer follows. It does not end with a space.
        choices: All answers that the question allows; each begins with a space unless a line begins with it.
        answer: Number of the right one.
    """

    text: str
    choices: tuple[str, ...]
    answer: int


class Family(ABC):
    """Stories of one kind. The world is a family's own; `step` changes it."""

    chance: float  # accuracy of a uniform guess among the choices, the mean over the questions
    after_answer = "\n"  # text between an answer and what follows it
    revealed = (0.0, 0.5, 1.0)  # shares of the operations of a training story after which an answer is told

    @abstractmethod
    def begin(self, draw: Random) -> tuple[str, Any]:
        """Return the beginning of a story, which tells the whole first state, and the world in that state.

        The beginning decides whether a story is for training, validation or test: there must be many of them.
        """

    @abstractmethod
    def step(self, draw: Random, world: Any) -> str:
        """Change the world by one operation and return the text that tells it."""

    @abstractmethod
    def ask(self, draw: Random, world: Any) -> Question:
        """Ask about the present state."""
