import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import GroupWordProblem
from data.tasks.permutation_groups import named_group
from lrnn.runtime.errors import ConfigError
from lrnn.theory import limits
from lrnn.theory.check import Claim, check
from lrnn.theory.claims import explicit, models
from lrnn.theory.construct import (
    counter_delta_net,
    group_delta_net,
    group_delta_product,
    parity_delta_net,
    parity_diagonal,
    parity_mamba,
    rotation_delta_product,
)
from lrnn.theory.linear_rnn import reflection_rnn, rotation_rnn
from lrnn.theory.reflections import contraction_factors, product, reflections_of, swaps_of
from lrnn.theory.theorems import theorems
from lrnn.theory.write import silu_inverse

PLANNED = {f"{one.theorem} {one.name} {one.made_of}": one for one in models() + explicit(torch.bfloat16)}
ROUNDED = [name for name in PLANNED if "Z60" in name and "Delta" not in name]  # in bfloat16 they drift apart


@pytest.mark.parametrize("name", [name for name in PLANNED if name not in ROUNDED])
def test_constructions_make_no_error(name):
    result = check(PLANNED[name].make(torch.device("cpu")), words=3, length=120, segment=50)
    assert result.errors == 0 and result.exact == 120
    if "Delta" in name:
        assert result.drift[100] < 1e-4 < result.least_distance[0]


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in PLANNED if name not in ROUNDED])
def test_constructions_make_no_error_on_a_gpu(name):
    result = check(PLANNED[name].make(torch.device("cuda")), words=100, length=1000, device="cuda")
    assert result.errors == 0


def test_the_checker_finds_the_first_error():
    follows = PLANNED["3 Z3 rotations"].make(torch.device("cpu")).automaton
    outputs = [0, 1, 1]  # it now says 1 in state 2
    wrong = type(follows)(follows.table, outputs=outputs)
    claim = Claim(rotation_rnn(3), wrong)
    result = check(claim, words=5, length=1000, seed=3)
    assert result.errors == pytest.approx(5000 / 3, rel=0.1) and result.exact < 10


@pytest.mark.parametrize(
    "make, options",
    [
        (lambda: group_delta_net(named_group("S4").permutations.tolist()), {"group": "S4", "alphabet": "swaps"}),
        (lambda: group_delta_product(named_group("A5").table.tolist()), {"group": "A5"}),
        (lambda: group_delta_product(named_group("Q8").table.tolist()), {"group": "Q8", "tokens_per_element": 2}),
        (lambda: rotation_delta_product(5), {"group": "Z5"}),
        (lambda: counter_delta_net(6), {"group": "Z6", "tokens_per_element": 2}),
    ],
)
def test_constructed_weights_solve_the_task_in_data(make, options):
    task, model = GroupWordProblem(**options), make()
    (batch,) = task.evaluation_batches(60, 60, 4)
    with torch.no_grad():
        said = model(batch.inputs)[0].argmax(-1)
    scored = batch.labels != -100
    assert torch.equal(said[scored], batch.labels[scored])


@pytest.mark.parametrize("make", [parity_delta_net, parity_mamba, parity_diagonal])
def test_parity_keeps_its_state_exactly(make):
    model, ones = make(), torch.full((1, 4000), 2)
    with torch.no_grad():
        logits, (((*_, state), _),) = model(ones)
        _, (((*_, start), _),) = model(ones[:, :2])
    assert torch.equal(logits.argmax(-1)[0, :4], torch.tensor([2, 1, 2, 1]))
    # without a gradient, the floor of softplus lets a closed gate add 4e-18 a token
    torch.testing.assert_close(state, start, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)))
def test_permutations_are_swaps(permutation):
    factors = swaps_of(permutation)
    M = product(factors, 6)
    assert torch.allclose(M[list(permutation), list(range(6))], torch.ones(6, dtype=torch.float64))
    seen, cycles = set(), 0
    for i in range(6):
        cycles += i not in seen
        while i not in seen:
            seen.add(i)
            i = permutation[i]
    assert len(factors) == 6 - cycles


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 999))
def test_contractions_are_products_of_3n_factors(n, seed):
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(n, n, dtype=torch.float64, generator=generator)
    M = M / torch.linalg.matrix_norm(M, 2)
    factors = contraction_factors(M)
    assert len(factors) <= 3 * n and torch.allclose(product(factors, n), M, atol=1e-12)
    assert all(-1e-12 <= beta <= 2 and abs(k.norm() - 1) < 1e-12 for beta, k in factors)
    Q = torch.linalg.qr(M)[0]
    assert len(reflections_of(Q)) <= n and torch.allclose(product(reflections_of(Q), n), Q, atol=1e-12)
    with pytest.raises(ValueError, match="norm must be at most 1"):
        contraction_factors(1.1 * M)


def test_proposition_1():
    found = limits.proposition_1(count=50)
    assert found["largest norm of 1 to 8 factors in [-1, 1]"] <= 1 + 1e-12
    assert found["most factors of a contraction of size 6"] <= 18
    assert found["most reflections of a permutation of 5"] == 4
    assert found["least of k + 1 less the points that k reflections move"] == 0
    assert found["largest imaginary part of 2 factors in [0, 1]"] < 1e-12
    assert found["largest imaginary part of 3 factors in [0, 1]"] > 0.01
    assert found["largest imaginary part of 2 factors in [-1, 1]"] > 0.1


def test_nonnegative_eigenvalues_converge_and_minus_one_does_not():
    for one in limits.certificates(layers=2):
        assert one.converged == {"float32": 2, "bfloat16": 2, "float16": 2}
        assert max(one.longest["bfloat16"], one.longest["float16"]) < one.longest["float32"]
    lengths = limits.length_until_constant(parity_delta_net(), token=2, longest=4096)
    assert {*lengths.values()} == {None}


def test_the_length_until_a_state_is_constant_is_that_of_the_recurrence():
    torch.manual_seed(0)
    model = limits.Diagonal(eigenvalue_range=(0, 1), width=8, layers=1)
    found = limits.length_until_constant(model, token=2, longest=4096)
    h, last = torch.zeros(8, dtype=torch.float64), 0
    with torch.no_grad():
        x = model.backbone.blocks[0].mixer_norm(*model.backbone.embed(torch.tensor([[2]])))[1]
        a = model.backbone.blocks[0].mixer.transitions(x).values[0, 0].double()
        b = model(torch.tensor([[2]]))[1][0][0][0][0].double()
    for k in range(1, 1000):
        new = a * h + b
        if not torch.equal(new.bfloat16(), h.bfloat16()):
            last = k
        h = new
    assert found["bfloat16"] == last


def test_real_eigenvalues_have_periods_that_are_powers_of_two():
    for layers in (1, 2, 3):
        for seed in range(8):
            found = limits.period_on_ones(limits.random_real_stack(layers, seed), 1, 600)
            assert found is None or 2**layers % found == 0  # some are not periodic so soon
        assert limits.period_on_ones(limits.binary_counter(layers), 1, 600) == 2**layers
    assert limits.period_on_ones(rotation_rnn(3), 1, 600) == 3
    assert limits.period_on_ones(reflection_rnn(5), 1, 600) == 5


def test_silu_inverse():
    y = torch.tensor([-0.27, -0.1, 0.0, 1e-6, 0.2, 5.0], dtype=torch.float64)
    assert torch.allclose(torch.nn.functional.silu(silu_inverse(y)), y, rtol=1e-12, atol=1e-18)


def test_theorems_writes_its_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lrnn.theory.theorems.models", lambda: models()[:4])
    monkeypatch.setattr("lrnn.theory.theorems.proposition_1", lambda: {"norm": 1.0})
    monkeypatch.setattr("lrnn.theory.theorems.certificates", lambda: [])
    monkeypatch.setattr("lrnn.theory.theorems.DEEPEST", 1)
    monkeypatch.setattr("lrnn.theory.figures.RANDOM_LAYERS", {})
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    theorems(words=2, length=20, parity_length=30, explicit_length=10, cascade_length=10, automata=1, out=str(tmp_path))
    record = json.loads((tmp_path / "theorems.json").read_text())
    assert record["rows"]["Architectures, float32"][3]["result"]["exact"] == 20
    assert "| 1, 3 | parity | Mamba, a = -1 | 2 | 30 | 30 | 0 |" in (tmp_path / "theorems.md").read_text()
    assert (tmp_path / "distances.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"^words: must be at least 1, got 0$"):
        theorems(words=0)
