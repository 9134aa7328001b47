"""Documents of the families: stories with a question at their end, and their answers.

A document is a pure function of its seed, split, family, length and number. The split is decided by a hash of the
story's beginning, so that no story of the training split begins as one of the test split does, whatever the seeds.
"""

from hashlib import blake2b
from random import Random
from typing import Literal, NamedTuple

from data.state_tracking.code import Counters, Recall, Repl, Variables
from data.state_tracking.family import Family
from data.state_tracking.language import Boards, Negations

Split = Literal["train", "validation", "test"]
FAMILIES: dict[str, Family] = {
    "variables": Variables(),
    "counters": Counters(),
    "recall": Recall(),
    "repl": Repl(),
    "negations": Negations(),
    "boards": Boards(),
}
SPLITS: dict[Split, tuple[int, ...]] = {"test": (0,), "validation": (1,), "train": (2, 3, 4, 5, 6, 7)}


class Document(NamedTuple):
    """A story with a question at its end.

    Attributes:
        family: Name of its family.
        length: Number of operations.
        prompt: The story and the question, up to the answer.
        choices: All answers that the question allows.
        answer: Number of the right one.
        told: Where the story itself tells a state: first and last character + 1 of each answer in the prompt.
    """

    family: str
    length: int
    prompt: str
    choices: tuple[str, ...]
    answer: int
    told: tuple[tuple[int, int], ...] = ()

    @property
    def text(self) -> str:
        """The whole story, with the right answer."""
        return self.prompt + self.choices[self.answer] + FAMILIES[self.family].after_answer.rstrip(" ")

    @property
    def answers(self) -> tuple[tuple[int, int], ...]:
        """Where the answers stand in the text, the last one too: first and last character + 1."""
        return *self.told, (len(self.prompt), len(self.prompt) + len(self.choices[self.answer]))


def make_document(seed: int, split: Split, family: str, length: int, number: int, revealed: float = 0.0) -> Document:
    """Make a document.

    Args:
        seed: Seed of the documents.
        split: Split of the documents.
        family: Name of the family, a key of FAMILIES.
        length: Number of operations, at least 1.
        number: Number of the document among those with the same arguments.
        revealed: Share of the operations after which the state is told, by a question with its answer.
    """
    draw, kind = Random(f"{seed} {split} {family} {length} {number}"), FAMILIES[family]
    text, world = kind.begin(draw)
    while blake2b(text.encode(), digest_size=1).digest()[0] % 8 not in SPLITS[split]:
        text, world = kind.begin(draw)
    told = []
    for step in range(1, length + 1):
        text += kind.step(draw, world)
        if step < length and draw.random() < revealed:
            question = kind.ask(draw, world)
            answer = question.choices[question.answer]
            text += question.text
            told.append((len(text), len(text) + len(answer)))
            text += answer + kind.after_answer
    question = kind.ask(draw, world)
    return Document(family, length, text + question.text, question.choices, question.answer, tuple(told))


def training_document(seed: int, number: int, families: tuple[str, ...], lengths: tuple[int, int]) -> Document:
    """Make document `number` of the training split, of a uniform family.

    The logarithm of the length is uniform: a model learns one operation before it learns many. The share of the
    operations after which the state is told is uniform over those that the family allows.
    """
    draw = Random(f"{seed} training {number}")
    family, (shortest, longest) = draw.choice(families), lengths
    length = min(longest, int(shortest * ((longest + 1) / shortest) ** draw.random()))
    return make_document(seed, "train", family, length, number, draw.choice(FAMILIES[family].revealed))
