"""Families in Python: running the text, with the right answer, raises no AssertionError."""

from random import Random
from string import ascii_lowercase

from data.state_tracking.family import Family, Question

Values = dict[str, int]


class Variables(Family):
    """Variables that are reassigned and swapped.

    a = 3
    d = 7
    c = 1
    a, d = d, a
    c = 5
    assert a == 7
    """

    names = "abcd"  # few, so that a small model meets each of them often
    chance = 1 / 4

    def begin(self, draw: Random) -> tuple[str, Values]:
        world = dict(zip(draw.sample(self.names, 4), draw.sample(range(10), 4), strict=True))
        return "".join(f"{name} = {value}\n" for name, value in world.items()), world

    def step(self, draw: Random, world: Values) -> str:
        a, b = draw.sample([*world], 2)
        if draw.random() < 0.75:
            world[a], world[b] = world[b], world[a]
            return f"{a}, {b} = {b}, {a}\n"
        world[a] = draw.choice([value for value in range(10) if value not in world.values()])
        return f"{a} = {world[a]}\n"

    def ask(self, draw: Random, world: Values) -> Question:
        name = draw.choice([*world])
        return choose_among(f"assert {name} ==", sorted(world.values()), world[name])


class Counters(Family):
    """A counter modulo 2, 3 or 5. Numbers are below the modulus, which is prime, so no step forgets.

    x = 8 % 5
    x = (x + 4) % 5
    x = (x * 3) % 5
    assert x == 1
    """

    chance = (1 / 2 + 1 / 3 + 1 / 5) / 3
    revealed = (0.0, 0.2, 0.5)  # never all: an answer and one operation give the next answer

    def begin(self, draw: Random) -> tuple[str, Values]:
        name, m, start = draw.choice(ascii_lowercase), draw.choice((2, 3, 5)), draw.randrange(10)
        return f"{name} = {start} % {m}\n", {"modulus": m, name: start % m}

    def step(self, draw: Random, world: Values) -> str:
        m, name = world["modulus"], [*world][1]
        sign, number = draw.choice("++-*"), draw.randrange(1, m)
        world[name] = {"+": world[name] + number, "-": world[name] - number, "*": world[name] * number}[sign] % m
        return f"{name} = ({name} {sign} {number}) % {m}\n"

    def ask(self, draw: Random, world: Values) -> Question:
        name = [*world][1]
        return choose_among(f"assert {name} ==", range(world["modulus"]), world[name])


class Recall(Family):
    """Values that move to free keys of a dictionary.

    box = {'a': 3, 'f': 5, 'c': 0}
    box['b'] = box.pop('f')
    box['f'] = box.pop('a')
    assert box['b'] == 5
    """

    keys = "abcdef"
    chance = 1 / 4

    def begin(self, draw: Random) -> tuple[str, Values]:
        world = dict(zip(draw.sample(self.keys, 4), draw.sample(range(10), 4), strict=True))
        return f"box = {world}\n", world

    def step(self, draw: Random, world: Values) -> str:
        old, new = draw.choice([*world]), draw.choice([key for key in self.keys if key not in world])
        world[new] = world.pop(old)
        return f"box['{new}'] = box.pop('{old}')\n"

    def ask(self, draw: Random, world: Values) -> Question:
        key = draw.choice([*world])
        return choose_among(f"assert box['{key}'] ==", sorted(world.values()), world[key])


class Repl(Family):
    """Permutations in an interactive session, with states revealed by prints (Siems et al. 2026, arXiv 2602.14814).

    >>> a = 1
    >>> b = 2
    >>> c = 3
    >>> a, c = c, a
    >>> a, b, c = b, c, a
    >>> print(b)
    1
    """

    names = "abcde"
    chance = 1 / 5

    def begin(self, draw: Random) -> tuple[str, Values]:
        world = dict(zip(self.names, draw.sample(range(10), len(self.names)), strict=True))
        return "".join(f">>> {name} = {value}\n" for name, value in world.items()), world

    def step(self, draw: Random, world: Values) -> str:
        moved = draw.sample([*world], draw.choice((2, 2, 3)))
        sources = [*moved[1:], moved[0]]
        world.update(zip(moved, [world[name] for name in sources], strict=True))
        return f">>> {', '.join(moved)} = {', '.join(sources)}\n"

    def ask(self, draw: Random, world: Values) -> Question:
        name = draw.choice([*world])
        values = sorted(world.values())
        return Question(f">>> print({name})\n", tuple(map(str, values)), values.index(world[name]))


def choose_among(text: str, values: range | list[int], answer: int) -> Question:
    return Question(text, tuple(f" {value}" for value in values), list(values).index(answer))
