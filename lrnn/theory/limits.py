"""What linear RNNs cannot do, as experiments (Theorems 1 and 2), and Proposition 1 as checks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations

import torch
from torch import Tensor

from lrnn.models import DeltaNet, Diagonal, LanguageModel, Mamba
from lrnn.theory.linear_rnn import Layer, LinearRNN
from lrnn.theory.reflections import contraction_factors, product, random_product, swaps_of
from lrnn.theory.spectra import transitions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROUNDING = 1e-12  # float64's own, which would carry a state over the border of two numbers of float32
BLOCK = 256  # states that are computed at once


def length_until_constant(model: LanguageModel, token: int, longest: int) -> dict[str, int | None]:
    """Return after how many equal tokens the state of a model of one layer stays the same, when cast to each dtype.

    The states are computed in float64, and cast afterwards, as in the proof of Theorem 1.

    Args:
        model: a model of one layer, without a convolution.
        token: the token that repeats.
        longest: number of tokens after which to give up.

    Returns:
        For each dtype the length, or None if the state still changes after `longest` tokens.
    """
    changed = dict.fromkeys(DTYPES, 0)
    for start, states in _states_on_ones(model, token, longest):
        moves = states.diff(dim=0).abs() > ROUNDING * states.abs().max()
        for name, dtype in DTYPES.items():
            differs = ((states[1:].to(dtype) != states[:-1].to(dtype)) & moves).flatten(1).any(1)
            if differs.any():
                changed[name] = start + int(differs.nonzero()[-1]) + 1
    return {name: None if last > longest - BLOCK else last for name, last in changed.items()}


def changes_on_ones(model: LanguageModel, token: int, length: int) -> Tensor:
    """Return |h_k - h_(k-1)| / max |h| for k = 1, ..., length, as the model of one layer reads equal tokens."""
    blocks = [states.diff(dim=0).flatten(1).norm(dim=1) for _, states in _states_on_ones(model, token, length)]
    largest = max(states.flatten(1).norm(dim=1).max() for _, states in _states_on_ones(model, token, length))
    return torch.cat(blocks)[:length] / largest


def _states_on_ones(model: LanguageModel, token: int, longest: int) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of states h_k, ..., h_(k + BLOCK) as (k, (BLOCK + 1, G, n, V)), in float64.

    The transition of a constant input is constant, so h_k = A h_(k-1) + h_1 with h_0 = 0.
    """
    (one,) = transitions(model.double(), torch.tensor([[token]])).values()
    A = one.matrices()[0, 0].double()  # (G, n, n)
    with torch.no_grad():
        state = model(torch.tensor([[token]]))[1][0][0][-1]
    first = state.reshape(len(A), A.shape[-1], -1)  # (G, n, V)
    powers, sums = [A], [torch.eye(A.shape[-1], dtype=A.dtype).expand_as(A)]  # A^j and I + ... + A^(j-1), j = 1, 2, ...
    for _ in range(BLOCK - 1):
        sums.append(sums[-1] + powers[-1])
        powers.append(powers[-1] @ A)
    A_j, terms = torch.stack(powers), torch.stack(sums) @ first
    h = torch.zeros_like(first)
    for start in range(0, longest, BLOCK):
        states = torch.cat([h[None], A_j @ h + terms])
        yield start, states
        h = states[-1]


RANDOM_LAYERS: dict[str, Callable[[], LanguageModel]] = {
    "DeltaNet": lambda: DeltaNet(eigenvalue_range=(0, 1), width=16, layers=1, heads=2, conv_size=0),
    "Mamba": lambda: Mamba(eigenvalue_range=(0, 1), width=16, layers=1, state_size=4, conv_size=0),
    "Diagonal": lambda: Diagonal(eigenvalue_range=(0, 1), width=16, layers=1),
}


@dataclass
class Certificate:
    """Lengths after which the states of random layers stay the same, on 1^k."""

    architecture: str
    eigenvalue_range: tuple[int, int]
    layers: int
    """Number of random layers."""
    converged: dict[str, int] = field(default_factory=dict)
    """Number of those whose state stays the same in the end, in each dtype."""
    longest: dict[str, int] = field(default_factory=dict)
    """Largest of their lengths, in each dtype."""


def certificates(layers: int = 10, longest: int = 2**16) -> list[Certificate]:
    """Draw random layers with eigenvalues in [0, 1], as they are when training starts, and read 1^k (Theorem 1)."""
    found = []
    for name, make in RANDOM_LAYERS.items():
        one = Certificate(name, (0, 1), layers, dict.fromkeys(DTYPES, 0), dict.fromkeys(DTYPES, 0))
        for seed in range(layers):
            torch.manual_seed(seed)
            for dtype, length in length_until_constant(make(), 2, longest).items():
                if length is not None:
                    one.converged[dtype] += 1
                    one.longest[dtype] = max(one.longest[dtype], length)
        found.append(one)
    return found


def period(outputs: Tensor) -> int | None:
    """Return the least period of the second half of a sequence (T,), or None if it is above a quarter of it."""
    tail = outputs[len(outputs) // 2 :]
    for p in range(1, len(tail) // 2 + 1):
        if torch.equal(tail[p:], tail[:-p]):
            return p
    return None


def period_on_ones(machine: LinearRNN, letter: int, length: int = 2000) -> int | None:
    """Return the period of what a machine says on a repeated letter."""
    said, _ = machine.read(torch.full((1, length), letter), machine.start(1))
    return period(said[0])


def binary_counter(layers: int) -> LinearRNN:
    """Make a stack of L layers with a = -1 or 1 whose output on 1^k has period 2^L, the longest of Theorem 2.

    Layer i is bit i of a counter: it changes its sign when the bit below it carries, and carries when it is 1 again.
    """
    bit = Layer(
        A=torch.tensor([[[1.0]], [[-1.0]]]),
        b=torch.zeros(2, 1),
        initial=torch.ones(1),
        directions=torch.tensor([[1.0], [-1.0]]),
        outputs=torch.tensor([[0, 0], [1, 0]]),
    )
    return LinearRNN((bit,) * layers)


def random_real_stack(layers: int, seed: int) -> LinearRNN:
    """Draw a stack of layers whose transitions are diagonal, so that eigenvalues of all products are real.

    Transitions are drawn from -1, -1, -0.5 and 0.5, inputs and decoders at random; everything is in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    values, n, symbols, candidates = torch.tensor([-1, -1, -0.5, 0.5], dtype=torch.float64), 3, 4, 6
    stack = []
    for _ in range(layers):
        normal = torch.randn(symbols + candidates + 1, n, dtype=torch.float64, generator=generator)
        stack.append(
            Layer(
                A=torch.diag_embed(values[torch.randint(4, (symbols, n), generator=generator)]),
                b=normal[:symbols],
                initial=normal[-1],
                directions=normal[symbols:-1],
                outputs=torch.randint(symbols, (symbols, candidates), generator=generator),
            )
        )
    return LinearRNN(tuple(stack))


def proposition_1(seed: int = 0, count: int = 200) -> dict[str, float]:
    """Check Proposition 1 on random matrices; each entry is what its name says, over all of them."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, float] = {}
    products = [random_product(6, k, (-1, 1), generator, count) for k in range(1, 9)]
    found["largest norm of 1 to 8 factors in [-1, 1]"] = max(
        float(torch.linalg.matrix_norm(M, 2).max()) for M in products
    )
    errors, most = [], 0
    for _ in range(count // 10):
        M = torch.randn(6, 6, dtype=torch.float64, generator=generator)
        M = M / torch.linalg.matrix_norm(M, 2)
        factors = contraction_factors(M)
        errors.append(float((product(factors, 6) - M).abs().max()))
        most = max(most, len(factors))
    found["most factors of a contraction of size 6"] = most
    found["largest error of its factors"] = max(errors)
    swaps = {p: swaps_of(p) for p in permutations(range(5))}
    found["most reflections of a permutation of 5"] = max(map(len, swaps.values()))
    found["largest error of its reflections"] = max(
        float((product(factors, 5) - _permutation_matrix(p)).abs().max()) for p, factors in swaps.items()
    )
    found["least of k + 1 less the points that k reflections move"] = min(
        len(factors) + 1 - sum(i != j for i, j in enumerate(p)) for p, factors in swaps.items() if _is_cycle(p)
    )
    for k in (1, 2, 3):
        values = torch.linalg.eigvals(random_product(6, k, (0, 1), generator, 100 * count))
        found[f"largest imaginary part of {k} factors in [0, 1]"] = float(values.imag.abs().max())
        found[f"least real part of {k} factors in [0, 1]"] = float(values.real.min())
    values = torch.linalg.eigvals(random_product(6, 2, (-1, 1), generator, count))
    found["largest imaginary part of 2 factors in [-1, 1]"] = float(values.imag.abs().max())
    return found


def _permutation_matrix(permutation: tuple[int, ...]) -> Tensor:
    M = torch.zeros(len(permutation), len(permutation), dtype=torch.float64)
    M[list(permutation), list(range(len(permutation)))] = 1
    return M


def _is_cycle(permutation: tuple[int, ...]) -> bool:
    """Whether the points that move are one cycle."""
    moved = [i for i, j in enumerate(permutation) if i != j]
    if not moved:
        return False
    orbit = [moved[0]]
    while (after := permutation[orbit[-1]]) != moved[0]:
        orbit.append(after)
    return len(orbit) == len(moved)
