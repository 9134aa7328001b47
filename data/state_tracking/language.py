"""Families in English."""

from random import Random
from typing import Any

from data.state_tracking.family import Family, Question

NAMES = (
    *("Ann", "Ben", "Carl", "Dora", "Eve", "Finn", "Gina", "Hugo", "Ida", "Jan"),
    *("Kim", "Leo", "Mia", "Ned", "Olga", "Paul", "Rita", "Sam", "Tess", "Vera"),
)
SUBJECTS = {
    "door": ("open", "closed"),
    "window": ("open", "closed"),
    "lamp": ("on", "off"),
    "radio": ("on", "off"),
    "cup": ("full", "empty"),
    "bag": ("full", "empty"),
    "floor": ("wet", "dry"),
    "coat": ("wet", "dry"),
}
PIECES = ("rook", "king", "queen", "pawn", "knight", "bishop", "coin", "stone")


class Negations(Family):
    """A chain of claims, each about the one before: the parity of the denials.

    Ann, Ben and Dora talk about the door. It is open. Ben says that it is so. Dora says that Ben is wrong. Ben says
    that Dora is wrong. So for Ben the door is open.
    """

    chance = 1 / 2
    after_answer = ". "
    revealed = (0.0, 0.2, 0.5)  # never all: an answer and one operation give the next answer

    def begin(self, draw: Random) -> tuple[str, dict[str, Any]]:
        names, subject = draw.sample(NAMES, 4), draw.choice([*SUBJECTS])
        state = draw.randrange(2)
        text = f"{', '.join(names[:-1])} and {names[-1]} talk about the {subject}. It is {SUBJECTS[subject][state]}. "
        return text, {"names": names, "subject": subject, "state": state, "last": None}

    def step(self, draw: Random, world: dict[str, Any]) -> str:
        before, denies = world["last"], draw.randrange(2)
        world["last"] = draw.choice([name for name in world["names"] if name != before])
        world["state"] ^= denies
        if before is None:
            return f"{world['last']} says that it is {'not so' if denies else 'so'}. "
        return f"{world['last']} says that {before} is {'wrong' if denies else 'right'}. "

    def ask(self, draw: Random, world: dict[str, Any]) -> Question:
        subject = world["subject"]
        choices = tuple(f" {state}" for state in SUBJECTS[subject])
        return Question(f"So for {world['last']} the {subject} is", choices, world["state"])


class Boards(Family):
    """Pieces that move on a board of five squares, one of which is free.

    The rook is on square 2, the coin on 1, the king on 5, the pawn on 3. The rook and the pawn change places. The coin
    goes to the free square. Now the coin is on square 4.
    """

    chance = 1 / 5
    after_answer = ". "
    squares = 5

    def begin(self, draw: Random) -> tuple[str, dict[str, int]]:
        pieces, squares = draw.sample(PIECES, 4), draw.sample(range(1, self.squares + 1), 4)
        first, *rest = zip(pieces, squares, strict=True)
        others = "".join(f", the {piece} on {square}" for piece, square in rest)
        return f"The {first[0]} is on square {first[1]}{others}. ", dict(zip(pieces, squares, strict=True))

    def step(self, draw: Random, world: dict[str, int]) -> str:
        a, b = draw.sample([*world], 2)
        if draw.random() < 0.5:
            world[a], world[b] = world[b], world[a]
            return f"The {a} and the {b} change places. "
        world[a] = next(square for square in range(1, self.squares + 1) if square not in world.values())
        return f"The {a} goes to the free square. "

    def ask(self, draw: Random, world: dict[str, int]) -> Question:
        piece = draw.choice([*world])
        choices = tuple(f" {square}" for square in range(1, self.squares + 1))
        return Question(f"Now the {piece} is on square", choices, world[piece] - 1)
