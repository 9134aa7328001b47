"""The paper's constructions as weights of the architectures in lrnn/models.

Every model here is an instance of a class that trains, with its weights written by hand (lrnn/theory/write.py). Beside
the coordinates of the embedding, the residual stream has further ones, which hold what the layers write.

Models of groups read the tokens of data.GroupWordProblem: an element's number, then a token that changes nothing, BOS,
and padding. `python -m lrnn.theory theorems` runs them all.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrnn.models import DeltaNet, DeltaProduct, Diagonal, Mamba
from lrnn.runtime.errors import check_at_least
from lrnn.theory.groups import checked_table, permutations_of
from lrnn.theory.reflections import Factor, swaps_of
from lrnn.theory.write import (
    CLOSED,
    LARGE,
    NEGATIVE,
    OPEN,
    SIZE,
    blank_model,
    silu_inverse,
    write_delta_net,
    write_gated,
    write_table,
)

SMALL = 2.0**-20  # size of a value that RMSNorm keeps linear, as its square is far below the eps of 1e-6


def parity_delta_net() -> DeltaNet:
    """Make parity in one DeltaNet layer, for the tokens of data.Parity: bit b is the token b + 1.

    A 1 has beta = 2, so that the state s turns into 2 v - s: 0, 2 v, 0, ... A 0 has beta = 0.
    """
    model = blank_model(DeltaNet, vocab_size=3, width=4, layers=1, heads=1, head_size=1, conv_size=0)
    mixer = model.backbone.blocks[0].mixer
    rows = [_everywhere(3, LARGE), _everywhere(3, LARGE), [0, 0, LARGE], [CLOSED, CLOSED, OPEN]]
    write_table(mixer.in_proj, torch.tensor(rows), 4)
    mixer.out_proj.weight[3, 0] = SIZE
    _answer_parity(model, constant=[0, 1, 2], odd={3: 1.0})
    return model


def parity_mamba() -> Mamba:
    """Make parity in one Mamba layer with one state a channel, for the tokens of data.Parity.

    A 1 has exp(dt A) = 0, so a = -1; a 0 has dt = 0, so a = 1 and nothing is added. dt A is far below zero because A
    is, so that the input dt B u stays of moderate size.
    """
    model = blank_model(Mamba, vocab_size=3, width=4, layers=1, state_size=1, expand=1, conv_size=0)
    mixer = model.backbone.blocks[0].mixer
    u = torch.cat([torch.eye(3) * LARGE, torch.full((1, 3), LARGE)])
    z = torch.tensor([_everywhere(3, 0)] * 3 + [_everywhere(3, LARGE)])
    write_table(mixer.in_proj, torch.cat([u, z]), 4)
    unit = 1 / LARGE
    mixer.x_proj.weight.copy_(
        torch.tensor([[-unit, -unit, unit, 0], [unit**2] * 3 + [0], [unit] * 3 + [0]])  # r, B and C
    )
    mixer.dt_bias.fill_(CLOSED)  # the other channels stay at 0
    mixer.dt_weight[3, 0], mixer.dt_bias[3] = (1 - CLOSED) / 2, (1 + CLOSED) / 2  # dt is softplus(1) or 0
    mixer.A_log.fill_(5)
    mixer.out_proj.weight[3, 3] = SIZE / LARGE / math.log1p(math.e)
    _answer_parity(model, constant=[0, 1, 2], odd={3: 1.0})
    return model


def parity_diagonal() -> Diagonal:
    """Make parity in one layer of the diagonal linear RNN, for the tokens of data.Parity.

    The state of coordinate 2, in which only a 1 has an embedding, is multiplied by a = -1 and gets 1 added at a 1.
    """
    model = blank_model(Diagonal, vocab_size=3, width=4, layers=1)
    model.backbone.embedding.weight[2, 3] = SIZE  # a copy, to subtract what the residual stream adds to the state
    mixer = model.backbone.blocks[0].mixer
    mixer.transition_proj.weight[2] = torch.tensor([10, 10, -10, 0])
    h = 2**0.5  # the entries of a normalised 1
    mixer.input_proj.weight[2, 2] = 2 * SIZE / h**2
    _answer_parity(model, constant=[0, 1, 3], odd={2: 1.0, 3: -1.0})
    return model


def group_delta_net(group_permutations: Sequence[Sequence[int]]) -> DeltaNet:
    """Make a permutation group in one DeltaNet layer, for elements that are swaps or the identity (Theorem 3, k = 2).

    Args:
        group_permutations: where each of the N elements moves the n points, as in data's Group.permutations.

    BOS writes h_0, which has n different entries, and a swap of i and j has k = (e_i - e_j) / sqrt 2 and beta = 2.
    Head i reads coordinate i. Elements that move more than two points are not in the alphabet.
    """
    N, n = len(group_permutations), len(group_permutations[0])
    V = N + 3
    model = blank_model(DeltaNet, vocab_size=V, width=V + n, layers=1, heads=n, head_size=n, conv_size=0)
    mixer = model.backbone.blocks[0].mixer
    h0 = _distinct(n)
    keys, logits = torch.zeros(V, n, dtype=torch.float64), torch.full((V,), CLOSED, dtype=torch.float64)
    for a, permutation in enumerate(group_permutations):
        if len(swaps := swaps_of(permutation)) == 1:
            keys[a], logits[a] = swaps[0][1], OPEN
    keys[N + 1], logits[N + 1] = h0, OPEN
    values = torch.zeros(V, n, dtype=torch.float64)
    values[N + 1, 0] = SMALL
    write_delta_net(mixer, keys.expand(n, -1, -1), values, logits, V + n)
    for i in range(n):
        mixer.out_proj.weight[V + i, i * n] = SIZE / SMALL * 1e-3
    of_elements = torch.stack([_matrix(p) @ h0 for p in group_permutations])
    model.backbone.head.weight[:N, V:] = of_elements.float()
    return model


def group_delta_product(table: Sequence[Sequence[int]]) -> DeltaProduct:
    """Make any group, from its table, in one DeltaProduct layer with n - 1 reflections a token (Theorem 3).

    The alphabet is all elements. The n points are the cosets of a subgroup (lrnn/theory/groups.py).

    Raises:
        ConfigError: if the group needs more points than a head has (lrnn/theory/groups.py).
    """
    return permutation_delta_product(permutations_of(checked_table(table)))


def permutation_delta_product(permutations: Sequence[Sequence[int]]) -> DeltaProduct:
    """Make a permutation group in one DeltaProduct layer with n - 1 reflections a token; all elements are letters.

    The state is a matrix: A(y_t), restricted to vectors whose entries sum to 0. BOS writes it at first, as the sum of
    n - 1 terms k v^T.
    """
    n = len(permutations[0])
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    basis = torch.linalg.svd(centre)[0][:, : n - 1].T  # (n - 1, n)
    return _orthogonal_delta_product(
        [swaps_of(p) for p in permutations], torch.stack([_matrix(p) for p in permutations]), basis, _distinct(n)
    )


def rotation_delta_product(modulus: int) -> DeltaProduct:
    """Make Z_m in one DeltaProduct layer: adding a turns the plane by 2 pi a / m, with two reflections (Theorem 3)."""
    check_at_least(2, modulus=modulus)
    angles = [2 * math.pi * a / modulus for a in range(modulus)]
    factors: list[list[Factor]] = [[(2.0, _unit(0)), (2.0, _unit(angle / 2))] for angle in angles]
    rotations = torch.stack([torch.stack([_unit(angle), _unit(angle + math.pi / 2)], 1) for angle in angles])
    return _orthogonal_delta_product(factors, rotations, torch.eye(2, dtype=torch.float64), _unit(0))


def counter_delta_net(modulus: int) -> DeltaNet:
    """Make addition modulo m in two DeltaNet layers, each with one reflection a token (Theorem 6, Appendix D).

    Layer 1 keeps s = 1 at even t and -1 at odd t. Its MLP looks up the key of layer 2 by the token x and by s: the
    reflection H(a) = [[cos a, sin a], [sin a, -cos a]] with a = (1 + 2 x) pi / m at even t and (1 - 2 x) pi / m at odd
    t. The state h of layer 2 is one of 2 m points of a circle, d_i at even t and c_i at odd t. The MLP of layer 2 sends
    h to one of two places by s, so that the head can compare it with d_i or with c_i.
    """
    check_at_least(2, modulus=modulus)
    m, V = modulus, modulus + 3
    s, z, h, read = V, V + 1, V + 3, V + 5  # coordinates of the residual stream
    width = V + 9
    model = blank_model(DeltaNet, vocab_size=V, width=width, layers=2, heads=2, head_size=2, conv_size=0, mlp_width=4)
    first, second = model.backbone.blocks
    letters = torch.arange(V) <= m  # the elements and the token that changes nothing

    # layer 1: a state that changes its sign at every letter
    keys = torch.zeros(2, V, 2, dtype=torch.float64)
    keys[0, :, 0] = 1
    values = torch.zeros(V, 2, dtype=torch.float64)
    values[m + 1, 0] = LARGE
    logits = torch.where(letters, OPEN, CLOSED).double()
    logits[m + 1] = OPEN
    write_delta_net(first.mixer, keys, values, logits, width)
    first.mixer.out_proj.weight[s, 0] = SIZE * 2**-0.5
    x = torch.tensor([*range(m), 0, 0, 0], dtype=torch.float64)
    angles = {even: (1 + (2 if even else -2) * x) * math.pi / m for even in (True, False)}
    scale = (width / 2) ** 0.5  # of the token and of s after the norm
    tiny = 1e-4  # so that the norm of layer 2 does not depend on the key
    for j, even in enumerate((True, False)):
        key = torch.stack([(angles[even] / 2 + math.pi / 2).cos(), (angles[even] / 2 + math.pi / 2).sin()], 1)
        key = silu_inverse(NEGATIVE * key) * letters[:, None]
        for c in range(2):
            write_gated(first.channel_mixer, 2 * j + c, s, even, scale)
            first.channel_mixer.gate_up.weight[4 + 2 * j + c, :V] = (key[:, c] / scale).float()
            first.channel_mixer.down.weight[z + c, 2 * j + c] = tiny * SIZE / -CLOSED

    # layer 2: the reflections
    keys = torch.zeros(2, V, 2, dtype=torch.float64)
    keys[:, m + 1, 0] = 1
    values = torch.zeros(V, 2, dtype=torch.float64)
    values[m + 1, 0] = SMALL
    write_delta_net(second.mixer, keys, values, logits, width, scale)
    for head in range(2):
        for c in range(2):
            second.mixer.in_proj.weight[4 + 2 * head + c, z + c] = 1 / (scale * tiny)
        second.mixer.out_proj.weight[h + head, 2 * head] = SIZE / SMALL * 1e-3 * 2**0.5 / 2
    scale = (width / 3) ** 0.5  # now h is there too
    for j, even in enumerate((True, False)):
        for c in range(2):
            unit = 2 * j + c
            write_gated(second.channel_mixer, unit, s, even, scale)
            second.channel_mixer.gate_up.weight[4 + unit, h + c] = 1 / scale
            second.channel_mixer.down.weight[read + unit, unit] = SIZE / -CLOSED
    for i, angles_of_i in enumerate(zip(*circle_angles(m), strict=True)):
        model.backbone.head.weight[i, read:] = torch.cat([*map(_unit, angles_of_i)]).float()
    return model


def circle_angles(modulus: int) -> tuple[list[float], list[float]]:
    """Return the angles of d_0, ..., d_(m-1) and of c_0, ..., c_(m-1) in Theorem 6."""
    d = [2 * math.pi * i / modulus for i in range(modulus)]
    return d, [math.pi / modulus - angle for angle in d]


def _orthogonal_delta_product(
    factors: Sequence[Sequence[Factor]], matrices: Tensor, basis: Tensor, probe: Tensor
) -> DeltaProduct:
    """Make a group of orthogonal matrices in one DeltaProduct layer with one head.

    Args:
        factors: reflections of each element, the first to act in front; at most as many as the basis has vectors.
        matrices: elements as matrices (N, n, n).
        basis: orthonormal vectors that span what the group acts on (R, n); BOS writes sum_r basis_r basis_r^T.
        probe: vector in this span that no two elements move to the same place (n,); it is the query.
    """
    N, R, n = len(factors), *basis.shape
    V = N + 3
    model = blank_model(
        DeltaProduct, vocab_size=V, width=V + n, layers=1, heads=1, head_size=n, reflections=R, conv_size=0,
        qk_activation="identity",
    )  # fmt: skip
    table = torch.zeros(V, 1 + 2 * R, n, dtype=torch.float64)  # q, k_1, ..., k_R, v_1, ..., v_R
    logits = torch.full((V, R), CLOSED, dtype=torch.float64)
    table[:, 0] = probe
    for a, reflections in enumerate(factors):
        for j, (_, k) in enumerate(reflections):
            table[a, 1 + j], logits[a, j] = k, OPEN
    table[N + 1, 1 : 1 + R] = basis
    table[N + 1, 1 + R :] = silu_inverse(NEGATIVE * basis)
    logits[N + 1] = 0  # beta = 1
    mixer = model.backbone.blocks[0].mixer
    write_table(mixer.in_proj, torch.cat([table.flatten(1), logits], 1).T, V + n)
    mixer.out_proj.weight[V:] = torch.eye(n) * SIZE
    model.backbone.head.weight[:N, V:] = (matrices.mT @ probe).float()  # the output is A^-1 probe
    return model


def _answer_parity(model: Any, constant: list[int], odd: dict[int, float]) -> None:
    """Let token 2 win if the odd coordinates sum to SIZE, and token 1 if to 0; the constant ones always sum to SIZE."""
    model.backbone.head.weight[1, constant] = 0.5
    for coordinate, weight in odd.items():
        model.backbone.head.weight[2, coordinate] = weight


def _everywhere(tokens: int, value: float) -> list[float]:
    return [value] * tokens


def _distinct(n: int) -> Tensor:
    """Return a vector of length 1 with n different entries that sum to 0."""
    h = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return h / h.norm()


def _matrix(permutation: Sequence[int]) -> Tensor:
    """Return the matrix that moves axis i to axis permutation[i]."""
    n = len(permutation)
    M = torch.zeros(n, n, dtype=torch.float64)
    M[list(permutation), list(range(n))] = 1
    return M


def _unit(angle: float) -> Tensor:
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
