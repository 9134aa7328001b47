"""The contract of all recurrences: forms agree, the state carries over, it stays in float32, bad shapes are refused."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lrnn.ops import delta_product, delta_rule, diagonal_scan, mlstm, selective_scan, slstm

LENGTHS = (1, 2, 3, 63, 64, 65, 257)
RANGES = ((0, 1), (-1, 1))
randn = partial(torch.randn, dtype=torch.float64)


@dataclass(frozen=True)
class Recurrence:
    """`draw(T)` gives tensors with tokens in dimension 1, tensors without tokens, and the tensors of a state.

    `run(tokens, weights, state, **options)` gives the outputs, and the tensors of the state after the last token.
    """

    name: str
    draw: Callable
    run: Callable
    has_chunks: bool = True  # takes chunk_size
    forms: tuple[str, ...] = ("recurrent", "chunked")
    output_dtype: torch.dtype = torch.bfloat16  # for inputs in bfloat16

    def inputs(self, T):
        return [[x.requires_grad_() for x in group] for group in self.draw(T)]


def delta_rule_inputs(T, scale, B=2, H=3, K=8, V=5):
    """Some beta are exactly 0, and some exactly `scale`."""
    beta = scale * torch.sigmoid(3 * randn(B, T, H))
    beta[:, ::3], beta[:, 1::5] = scale, 0
    return [randn(B, T, H, K), F.normalize(randn(B, T, H, K), dim=-1), randn(B, T, H, V), beta], [], [randn(B, H, K, V)]


def run_delta_rule(tokens, weights, state, **options):
    o, S = delta_rule(*tokens, *state, **options)
    return o, [S]


def delta_product_inputs(T, n, gated, B=2, H=2, K=6, V=5):
    """Some beta are exactly 0 or 2, and some gates exactly 1 or nearly 0."""
    beta = 2 * torch.sigmoid(3 * randn(B, T, n, H))
    beta[:, ::3], beta[:, 1::5] = 2, 0
    k = F.normalize(randn(B, T, n, H, K), dim=-1)
    log_gate = F.logsigmoid(randn(B, T, H))
    log_gate[:, ::2], log_gate[:, 1::7] = 0, -30
    return [randn(B, T, H, K), k, randn(B, T, n, H, V), beta, *([log_gate] if gated else [])], [], [randn(B, H, K, V)]


def run_delta_product(tokens, weights, state, **options):
    q, k, v, beta, *log_gate = tokens
    o, S = delta_product(q, k, v, beta, *log_gate or [None], *state, **options)
    return o, [S]


def selective_scan_inputs(T, batch=2, D=6, N=4):
    """Some dt are so large that a is exactly 0 or -1 in float64, and some are 0, where a is 1."""
    dt = F.softplus(3 * randn(batch, T, D))
    dt[:, ::5], dt[:, 1::7] = 1000, 0
    A = -4 * torch.rand(D, N, dtype=torch.float64) - 0.1
    return [randn(batch, T, D), dt, randn(batch, T, N), randn(batch, T, N)], [A, randn(D)], [randn(batch, D, N)]


def run_selective_scan(tokens, weights, state, span, **options):
    (u, dt, B, C), (A, skip) = tokens, weights
    y, h = selective_scan(u, dt, A, B, C, skip, span, *state, **options)
    return y, [h]


def mlstm_inputs(T, B=2, H=3, K=8, V=5):
    """Some gates are saturated."""
    input_gate, forget_gate = 3 * randn(2, B, T, H)
    input_gate[:, 3::7] = 40
    forget_gate[:, 1::5], forget_gate[:, 2::11] = 30, -30
    tokens = [randn(B, T, H, K), randn(B, T, H, K), randn(B, T, H, V), input_gate, forget_gate]
    return tokens, [], [randn(B, H, K, V), randn(B, H, K), randn(B, H)]


def run_mlstm(tokens, weights, state, span, **options):
    return mlstm(*tokens, span, tuple(state) or None, **options)


def slstm_inputs(T, B=2, H=3, D=4):
    return (
        [randn(B, T, H, 4, D)],
        [randn(H, D, 4 * D)],
        [randn(B, H, D), randn(B, H, D), 1 + randn(B, H, D) ** 2, randn(B, H, D)],
    )


def run_slstm(tokens, weights, state, **options):
    return slstm(*tokens, *weights, tuple(state) or None, **options)


def diagonal_scan_inputs(T, B=2, D=5):
    """Some a are exactly 0, 1 or -1."""
    a = torch.tanh(2 * randn(B, T, D))
    for value, every in ((0, 5), (1, 3), (-1, 4)):
        a[:, ::every] = value
    return [a, randn(B, T, D)], [], [randn(B, D)]


def run_diagonal_scan(tokens, weights, state, **options):
    states, last = diagonal_scan(*tokens, *state, **options)
    return states, [last]


RECURRENCES = [
    *(Recurrence(f"delta_rule {s}", partial(delta_rule_inputs, scale=s), run_delta_rule) for s in (1, 2)),
    *(
        Recurrence(f"delta_product {n} {gated}", partial(delta_product_inputs, n=n, gated=gated), run_delta_product)
        for n, gated in ((1, False), (3, False), (2, True))
    ),
    *(Recurrence(f"selective_scan {s}", selective_scan_inputs, partial(run_selective_scan, span=s)) for s in RANGES),
    *(Recurrence(f"mlstm {s}", mlstm_inputs, partial(run_mlstm, span=s)) for s in RANGES),
    Recurrence("slstm", slstm_inputs, run_slstm, has_chunks=False, forms=("recurrent",)),
    Recurrence("diagonal_scan", diagonal_scan_inputs, run_diagonal_scan, has_chunks=False, output_dtype=torch.float32),
]
every_recurrence = pytest.mark.parametrize("op", RECURRENCES, ids=lambda op: op.name)


def outputs_and_gradients(op, tokens, weights, state, form):
    y, end = op.run(tokens, weights, state, form=form)
    results = [y, *end]
    generator = torch.Generator().manual_seed(1)
    inputs = [*tokens, *weights, *state]
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in results if x.requires_grad)
    return results, torch.autograd.grad(loss, inputs, materialize_grads=True)


def relative_error(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("op", [op for op in RECURRENCES if "chunked" in op.forms], ids=lambda op: op.name)
def test_chunked_form_equals_the_specification(op, T):
    tensors = op.inputs(T)
    want, got = (outputs_and_gradients(op, *tensors, form) for form in ("recurrent", "chunked"))
    for a, b in zip((*got[0], *got[1]), (*want[0], *want[1]), strict=True):
        assert relative_error(a, b) < 1e-9


@pytest.mark.parametrize("n", [1, 2])
def test_gates_near_0_and_near_1_lose_no_digits(n):
    """The chunked delta product in float32 against the specification in float64. One token has a gate of exactly 0."""
    tokens, _, state = delta_product_inputs(64, n, gated=True)
    strong = torch.rand(2, 64, 2, dtype=torch.float64) < 0.3
    tokens[4] = -torch.where(strong, 160, 1e-3) * torch.rand(2, 64, 2, dtype=torch.float64)
    tokens[4][:, 20] = -torch.inf
    weight = randn(2, 64, 2, 5)

    def outputs_and_gradients_in(dtype, form):
        tensors = [x.float().to(dtype).requires_grad_() for x in (*tokens, *state)]
        o, S = delta_product(*tensors, form=form)
        return o, S, *torch.autograd.grad((o * weight.to(dtype)).sum() + S.square().sum(), tensors)

    got, want = outputs_and_gradients_in(torch.float32, "chunked"), outputs_and_gradients_in(torch.float64, "recurrent")
    for a, b in zip(got, want, strict=True):
        assert relative_error(a, b) < 2e-6


@every_recurrence
@settings(max_examples=20, deadline=None)
@given(T=st.integers(2, 40), cut=st.integers(1, 39), chunk_size=st.integers(1, 17), data=st.data())
def test_a_sequence_in_pieces_equals_one_call(op, T, cut, chunk_size, data):
    cut = min(cut, T - 1)
    options = {"form": data.draw(st.sampled_from(("auto", *op.forms)))}
    if op.has_chunks:
        options["chunk_size"] = chunk_size
    tokens, weights, state = op.inputs(T)
    whole, final = op.run(tokens, weights, state, **options)
    first, middle = op.run([x[:, :cut] for x in tokens], weights, state, **options)
    second, end = op.run([x[:, cut:] for x in tokens], weights, middle, **options)
    for a, b in zip((torch.cat([first, second], 1), *end), (whole, *final), strict=True):
        torch.testing.assert_close(a, b)


@every_recurrence
@torch.no_grad()
def test_state_stays_in_float32_for_bfloat16_inputs(op):
    tokens, weights, _ = ([x.clamp(-4, 4).bfloat16() for x in group] for group in op.draw(70))
    y, state = op.run(tokens, weights, [])
    assert y.dtype == op.output_dtype and {x.dtype for x in state} == {torch.float32}
    want, _ = op.run([x.double() for x in tokens], [x.double() for x in weights], [], form="recurrent")
    assert relative_error(y.double(), want) < 1e-2


@every_recurrence
def test_wrong_shapes_are_refused(op):
    tokens, weights, (first, *others) = op.draw(4)
    broken = [([tokens[0][..., :-1], *tokens[1:]], [first, *others])]  # the first input is too narrow
    if len(tokens) > 1:  # the last one is too short
        broken.append(([*tokens[:-1], tokens[-1][:, :3]], [first, *others]))
    for i in range(1 + len(others)):  # a tensor of the state is too narrow, or is that of one sequence
        for wrong in (lambda x: x[..., :-1], lambda x: x[:1]):
            broken.append((tokens, [wrong(x) if i == j else x for j, x in enumerate((first, *others))]))
    broken.append(([x[:, :0] for x in tokens], [first, *others]))
    for some_tokens, state in broken:
        with pytest.raises(ValueError, match=op.name.split()[0]):
            op.run(some_tokens, weights, state)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("op", [op for op in RECURRENCES if op.has_chunks], ids=lambda op: op.name)
def test_chunks_without_a_token_are_refused(op, size):
    with pytest.raises(ValueError, match=f"{op.name.split()[0]}: chunk_size must be at least 1, got {size}"):
        op.run(*op.draw(4), chunk_size=size)


@every_recurrence
def test_an_empty_batch_is_taken(op):
    tokens, weights, state = ([x[:0] if i != 1 else x for x in group] for i, group in enumerate(op.draw(9)))
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient):
            for form in ("auto", *op.forms):
                y, end = op.run(tokens, weights, state, form=form)
                assert y.shape[:2] == (0, 9) and [x.shape for x in end] == [x.shape for x in state]
