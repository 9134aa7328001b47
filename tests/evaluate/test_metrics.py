import torch
from hypothesis import given
from hypothesis import strategies as st

from lrnn.evaluate.metrics import IGNORE, LabelAccuracy, PrefixAccuracy, ScaledAccuracy, SequenceAccuracy

ROWS = st.lists(st.tuples(*[st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2, IGNORE]))] * 4), min_size=1)


@given(batches=st.lists(ROWS, min_size=1, max_size=3))
def test_accuracies_equal_counts_in_plain_python(batches):
    labelled, whole, scaled = LabelAccuracy(), SequenceAccuracy(), ScaledAccuracy(chance=0.2)
    for rows in batches:
        predictions, labels = torch.tensor(rows).unbind(-1)
        for metric in (labelled, whole, scaled):
            metric.update(predictions, labels)
    sequences = [[p == y for p, y in row if y != IGNORE] for rows in batches for row in rows]
    right = [answer for sequence in sequences for answer in sequence]
    if not right:
        assert labelled.compute().isnan() and whole.compute().isnan()
        return
    assert labelled.compute().item() == sum(right) / len(right)
    assert scaled.compute().item() == (sum(right) / len(right) - 0.2) / (1 - 0.2)
    assert whole.compute().item() == sum(map(all, filter(None, sequences))) / sum(map(bool, sequences))


def test_one_wrong_label_of_twenty_million_is_seen():
    for metric in (LabelAccuracy(), ScaledAccuracy(chance=0)):
        metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
        metric.correct += 19_999_998
        metric.scored += 19_999_998
        assert metric.compute().item() == 19_999_999 / 20_000_000


@given(drawn=st.lists(st.tuples(ROWS, st.integers(1, 4)), min_size=1, max_size=3))
def test_prefix_accuracies_equal_counts_in_plain_python(drawn):
    batches = [[row[:length] for row in rows] for rows, length in drawn]
    metric = PrefixAccuracy()
    for rows in batches:
        metric.update(*torch.tensor(rows).unbind(-1))
    want = []
    for t in range(4):
        rows = [row for rows in batches for row in rows if row[t : t + 1] and row[t][1] != IGNORE]
        if rows:
            right = sum(row[t][0] == row[t][1] for row in rows)
            so_far = sum(all(p == y for p, y in row[: t + 1] if y != IGNORE) for row in rows)
            want.append((t, right / len(rows), so_far / len(rows)))
    got = [values.flatten().tolist() for values in metric.compute()]
    assert list(zip(*got, strict=True)) == want
