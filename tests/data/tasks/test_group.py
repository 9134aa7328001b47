"""Groups against their definitions, and running products against permutations composed one after the other."""

from itertools import islice, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import GroupWordProblem
from data.resumable import IGNORE
from data.tasks import permutation_groups
from data.tasks.permutation_groups import generated_group, named_group, reachable

ADJACENT_SWAPS = [[1, 0, 2, 3, 4], [0, 2, 1, 3, 4], [0, 1, 3, 2, 4], [0, 1, 2, 4, 3]]
# z -> z + 1 and z -> -1 / z on the projective line over 7 elements, whose point 7 is infinity: PSL(2, 7)
PSL27 = [[1, 2, 3, 4, 5, 6, 0, 7], [7, 6, 3, 2, 5, 4, 1, 0]]


def then(b, a):
    """The permutation a * b, which is b and then a."""
    return tuple(a[point] for point in b)


def is_even(p):
    return sum(p[i] > p[j] for j in range(len(p)) for i in range(j)) % 2 == 0


def moebius(a, b, c, d):
    """z -> (a z + b) / (c z + d) over 7 elements, as a permutation; 7 is infinity."""

    def image(z):
        above, below = (a, c) if z == 7 else (a * z + b, c * z + d)
        return above * pow(below, -1, 7) % 7 if below % 7 else 7

    return tuple(image(z) for z in range(8))


def quaternions():
    """The 8 quaternions as matrices, and as permutations of themselves by multiplication from the left."""
    one, i, j = np.eye(2), np.diag([1j, -1j]), np.array([[0, 1], [-1, 0]])
    units = [one, i, j, i @ j]
    units += [-unit for unit in units]

    def place(unit):
        return next(n for n in range(8) if np.allclose(units[n], unit))

    return [tuple(place(a @ b) for b in units) for a in units]


# every element by the definition of its group, not by generators
ELEMENTS = {
    "S5": list(permutations(range(5))),
    "A5": [p for p in permutations(range(5)) if is_even(p)],
    "Z60": [tuple((i + r) % 60 for i in range(60)) for r in range(60)],
    "D8": [tuple((sign * i + r) % 8 for i in range(8)) for sign in (1, -1) for r in range(8)],
    "Q8": quaternions(),
    "S3xZ4": [(*p, *(3 + (i + r) % 4 for i in range(4))) for p in permutations(range(3)) for r in range(4)],
    "PSL27": {moebius(*m) for m in product(range(7), repeat=4) if (m[0] * m[3] - m[1] * m[2]) % 7 == 1},
}


def task(name, **options):
    return GroupWordProblem(**({"generators": PSL27} if name == "PSL27" else {"group": name}), **options)


def differences(name, sequences, length, **options):
    """Number of labels that are not the product of the sequence's permutations so far."""
    group = task(name, training_labels="every_token", **options)
    index = torch.arange(sequences)
    batch = group.sample(6, index, torch.full_like(index, length), length, training=True)
    elements = np.array(sorted(ELEMENTS[name]))
    state = np.tile(np.arange(elements.shape[1]), (sequences, 1))
    different = int((batch.labels[:, 0] != 0).sum())
    for t in range(1, length + 1):
        state = np.take_along_axis(elements[batch.inputs[:, t].numpy()], state, axis=1)  # first state, then x_t
        different += (state != elements[batch.labels[:, t].numpy()]).any(1).sum()
    return int(different)


@pytest.mark.parametrize("name", ELEMENTS)
def test_running_products_against_permutations(name):
    """110,040 products."""
    assert all(differences(name, 120, length) == 0 for length in (1, 2, 3, 16, 17, 32, 33, 256, 257, 300))


@pytest.mark.parametrize("name", ELEMENTS)
def test_elements_are_those_of_the_definition_in_lexicographic_order(name):
    got = [tuple(p) for p in task(name).group.permutations.tolist()]
    assert got == sorted(ELEMENTS[name])


def test_numbers_of_cyclic_groups_and_quaternions():
    a = torch.arange(60)
    assert torch.equal(named_group("Z60").table, ((a[:, None] + a) % 60).int())
    one, i, j, k, minus, *_ = range(8)
    table = named_group("Q8").table.tolist()
    assert [table[i][j], table[j][k], table[k][i], table[i][i], table[j][i]] == [k, i, j, minus, k + 4]
    assert table[one] == list(range(8))


ORDERS = {"S2": 2, "S3": 6, "S6": 720, "A3": 3, "A4": 12, "A5": 60, "A6": 360, "Z2": 2, "D3": 6, "D4": 8, "D8": 16}


@pytest.mark.parametrize(
    ("name", "order"), [*ORDERS.items(), ("Q8", 8), ("Z2xA5", 120), ("Z2xZ2xZ3", 12), ("Q8xD5", 80)]
)
def test_orders(name, order):
    group = named_group(name)
    assert group.order == order
    assert (group.table.sort(1).values == torch.arange(order)).all()


def test_a_product_numbers_pairs():
    """In Z2xA5, (a, b) is number 60 a + b."""
    a, b = torch.arange(120) // 60, torch.arange(120) % 60
    want = (a[:, None] + a) % 2 * 60 + named_group("A5").table[b][:, b]
    assert torch.equal(named_group("Z2xA5").table, want.int())


def closure(generators):
    found = {tuple(range(len(generators[0])))}
    while True:
        more = found | {then(b, a) for b in found for a in generators}
        if more == found:
            return found
        found = more


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=3)))
def test_axioms_of_generated_groups(generators):
    group = generated_group(generators)
    elements = group.permutations
    assert [tuple(p) for p in elements.tolist()] == sorted(closure(generators))
    everything = torch.arange(group.order)
    composed = elements[:, None].expand(-1, group.order, -1).gather(2, elements.expand(group.order, -1, -1))
    assert torch.equal(elements[group.table.long()], composed)
    assert torch.equal(group.table[0], everything.int()) and torch.equal(group.table[:, 0], everything.int())
    assert ((group.table == 0).sum(1) == 1).all() and torch.equal(group.table == 0, (group.table == 0).T)
    a, b, c = torch.randint(group.order, (3, 1000))
    table = group.table.long()
    assert torch.equal(table[table[a, b], c], table[a, table[b, c]])
    assert group.generators == list(dict.fromkeys(elements.tolist().index(list(g)) for g in generators))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["S3", "S4", "A4", "Z12", "D6", "Q8", "Z2xZ4"]), st.data())
def test_chance_counts_the_products_of_a_long_sequence(name, data):
    group = named_group(name)
    letters = data.draw(st.lists(st.integers(0, group.order - 1), min_size=1, max_size=4, unique=True))
    table, products = group.table.tolist(), {0}
    for _ in range(64):
        products = {table[a][b] for a in letters for b in products}
    assert reachable(group.table, torch.tensor(letters)) == len(products)


def test_alphabets():
    def letters(**options):
        return GroupWordProblem(**options).letters.tolist()

    elements = list(permutations(range(5)))
    moved = [sum(p[i] != i for i in range(5)) for p in elements]
    assert letters(group="S5", alphabet="swaps") == [i for i in range(120) if moved[i] <= 2]
    assert letters(group="S5", alphabet="at_most_3_points") == [i for i in range(120) if moved[i] <= 3]
    assert len(letters(group="S5", alphabet="swaps")) == 11
    assert len(letters(group="S5", alphabet="at_most_3_points")) == 31
    assert letters(group="S5") == list(range(120))
    assert letters(group="Z60", alphabet=[59, 1]) == [59, 1]
    assert letters(group="Q8", alphabet="generators") == [1, 2]
    assert letters(generators=ADJACENT_SWAPS, alphabet="generators") == [elements.index((*g,)) for g in ADJACENT_SWAPS]


def test_sequences_have_all_letters_of_the_alphabet_equally_often():
    task = GroupWordProblem("S5", alphabet="swaps", train_lengths=(50, 50), batch_size=2000)
    inputs = task.training_batch(range(2000), torch.device("cpu")).inputs[:, 1:]
    counts = inputs.flatten().bincount(minlength=120)[task.letters].double()
    assert counts.sum() == 100_000
    assert ((counts - 1e5 / 11) ** 2 / (1e5 / 11)).sum() < 10 + 5 * 20**0.5  # chi squared


def test_chance_knows_parity_and_subgroups():
    assert GroupWordProblem("S5", alphabet="swaps").chance == 1 / 120
    assert GroupWordProblem(generators=ADJACENT_SWAPS, alphabet="generators").chance == 1 / 60
    assert GroupWordProblem("Z60", alphabet=[0, 12]).chance == 1 / 5


LABELS = {  # by hand: the elements 2, 1, 1, 5 and 2, 1 of S3
    1: {
        "inputs": [[7, 2, 1, 1, 5], [7, 2, 1, 8, 8]],
        "every_token": [[0, 2, 4, 2, 3], [0, 2, 4, None, None]],
        "every_element": [[None, 2, 4, 2, 3], [None, 2, 4, None, None]],
        "last": [[None, None, None, None, 3], [None, None, 4, None, None]],
    },
    4: {
        "inputs": [[7, 2, 6, 6, 6, 1, 6, 6, 6, 1, 6, 6, 6, 5, 6, 6, 6], [7, 2, 6, 6, 6, 1, 6, 6, 6] + [8] * 8],
        "every_token": [[0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 2, 2, 2, 2, 3], [0, 0, 0, 0, 2, 2, 2, 2, 4] + [None] * 8],
        "every_element": [
            [None] * 4 + [2] + [None] * 3 + [4] + [None] * 3 + [2] + [None] * 3 + [3],
            [None] * 4 + [2] + [None] * 3 + [4] + [None] * 8,
        ],
        "last": [[None] * 16 + [3], [None] * 8 + [4] + [None] * 8],
    },
}


@pytest.mark.parametrize("tokens_per_element", LABELS)
@pytest.mark.parametrize("labels", ["every_token", "every_element", "last"])
@pytest.mark.parametrize("training", [True, False])
def test_layout_of_tokens_and_labels(tokens_per_element, labels, training, monkeypatch):
    drawn = torch.tensor([[2, 1, 1, 5], [2, 1, 0, 3]])
    monkeypatch.setattr("data.tasks.group.random_integers", lambda *_: drawn)
    scored = {"training_labels" if training else "evaluation_labels": labels}
    task = GroupWordProblem("S3", tokens_per_element=tokens_per_element, **scored)
    batch = task.sample(0, torch.arange(2), torch.tensor([4, 2]), longest=4, training=training)
    want = LABELS[tokens_per_element]
    assert batch.inputs.tolist() == want["inputs"]
    assert batch.labels.tolist() == [[IGNORE if y is None else y for y in row] for row in want[labels]]
    assert task.one_label == (training and labels == "last")
    assert task.vocab_size == 9


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_sample_depends_on_its_seed_index_and_length_alone(data):
    k = data.draw(st.integers(1, 4), label="tokens per element")
    task = GroupWordProblem("A4", tokens_per_element=k, evaluation_labels="every_token")
    seed = data.draw(st.integers(0, 2**40), label="seed")
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, 70), min_size=2, max_size=6), label="lengths"))
    index = torch.arange(len(lengths)) + data.draw(st.integers(0, 2**40), label="first index")
    longest = int(lengths.max()) + data.draw(st.integers(0, 30), label="padding")
    together = task.sample(seed, index, lengths, longest, training=True)
    for i, length in enumerate(lengths.tolist()):
        alone = task.sample(seed, index[i : i + 1], lengths[i : i + 1], length, training=False)
        for one, all_, beyond in zip(alone, together, (task.padding, IGNORE), strict=True):
            assert torch.equal(one[0], all_[i, : 1 + k * length]) and (all_[i, 1 + k * length :] == beyond).all()


def test_shapes_follow_from_the_longest_length():
    """Tensors without values (meta) raise where a GPU would be waited for."""
    task, index, lengths = GroupWordProblem("S4", tokens_per_element=2), torch.arange(30), torch.full((30,), 9)
    meta = task.sample(2, index.to("meta"), lengths.to("meta"), longest=64, training=True)
    assert all(field.shape == (30, 129) and field.dtype == torch.int64 for field in meta)


def test_evaluation_sets_of_any_length():
    """Sets are fixed and within the token budget, and no test sequence is trained on or selected by."""
    task, other = GroupWordProblem("S5", seed=1), GroupWordProblem("S5", seed=2, batch_size=7)
    for a, b in zip(task.evaluation_batches(1, 500, 64), other.evaluation_batches(1, 500, 64), strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels)
    batches = list(GroupWordProblem("S5", tokens_per_element=4).evaluation_batches(64, 64, 100, tokens=4096))
    assert [len(batch.inputs) for batch in batches] == [16] * 6 + [4]
    assert all((batch.labels != IGNORE).sum() == 64 * len(batch.labels) for batch in batches)
    index = torch.arange(10_000)
    trained = task.sample(2, index, torch.full((10_000,), 32), 32, training=True).inputs
    tested, selected = (
        torch.cat([batch.inputs for batch in task.evaluation_batches(32, 32, 200, validation)])
        for validation in (False, True)
    )
    trained, tested, selected = ({tuple(row) for row in rows.tolist()} for rows in (trained, tested, selected))
    assert len(tested) == len(selected) == 200 and not tested & (trained | selected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "group: must be a name such as S5, or generators must be given"),
        ({"group": "S3", "generators": [[1, 0]]}, "generators: must be null where a group is named"),
        ({"group": "M11"}, "group: unknown name 'M11'; known are S2 to S7, A3 to A7"),
        ({"group": "D2"}, "group: unknown name 'D2'"),
        ({"group": "S3x"}, "group: unknown name 'S3x'"),
        ({"group": "Z2xS8"}, "group: Z2xS8 has more than 5,040 elements, the most that can be tabulated"),
        ({"group": "S999999999"}, "group: S999999999 has more than 5,040 elements"),
        ({"generators": [[*range(1, 9), 0], [1, 0, *range(2, 9)]]}, "generators: the group has more than 5,040"),
        ({"generators": []}, "generators: needs at least one permutation"),
        ({"generators": [[]]}, "generators: needs at least one permutation"),
        ({"generators": [[1, 0, 2], [1, 0]]}, r"permutation of 0, ..., 2, .* number 1 is \[1, 0\]"),
        ({"generators": [[1, 0, 1]]}, r"number 0 is \[1, 0, 1\]"),
        ({"generators": [[1, 2, 3]]}, r"number 0 is \[1, 2, 3\]"),
        ({"generators": [[0, 1, 2]]}, "alphabet: needs at least 2 elements, all has 1 in this group"),
        ({"group": "Z60", "alphabet": "swaps"}, "alphabet: needs at least 2 elements, swaps has 1"),
        ({"group": "S3", "alphabet": "swap"}, "alphabet: must be one of all, swaps, at_most_3_points, generators, or"),
        ({"group": "S3", "alphabet": [1, 1]}, r"alphabet: must list different elements in \[0, 6\), got \[1, 1\]"),
        ({"group": "S3", "alphabet": [0, 6]}, r"alphabet: must list different elements in \[0, 6\), got \[0, 6\]"),
        ({"group": "S3", "alphabet": []}, "alphabet: needs at least 2 elements"),
        ({"group": "S3", "tokens_per_element": 0}, "tokens_per_element: must be at least 1, got 0"),
        ({"group": "S3", "train_lengths": (0, 4)}, "train_lengths: must be .* with 1 <= shortest"),
    ],
)
def test_bad_options_are_named_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        GroupWordProblem(**options)
    assert "\n" not in str(error.value)


def test_the_largest_group_is_tabulated(monkeypatch):
    monkeypatch.setattr(permutation_groups, "LARGEST", 24)
    assert generated_group([[1, 0, 2, 3], [1, 2, 3, 0]]).order == named_group("S4").order == 24
    with pytest.raises(ValueError, match="more than 24 elements"):
        generated_group([[1, 0, 2, 3, 4], [1, 2, 3, 4, 0]])


@pytest.mark.gpu
@pytest.mark.parametrize("tokens_per_element", [1, 4])
def test_a_gpu_draws_what_a_cpu_draws(tokens_per_element, monkeypatch):
    monkeypatch.setattr("data.tasks.synthetic.GPU_TOKENS", 3 * 256 * 40)  # three steps at once
    task = GroupWordProblem("S5", alphabet="swaps", tokens_per_element=tokens_per_element, batch_size=256)
    drawn, expected = (task.training_batches(10**9, 768, torch.device(device)) for device in ("cuda", "cpu"))
    # all are kept, so that one that is written over is seen
    for ours, theirs in zip(list(islice(drawn, 5)), islice(expected, 5), strict=True):
        for mine, yours in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.cpu(), yours, rtol=0, atol=0)
