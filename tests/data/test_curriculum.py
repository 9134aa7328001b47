"""A length curriculum: samples of each stage have its lengths, whatever the batches, the ranks or the device."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from data import CycleNavigation, GroupWordProblem, ModularArithmetic, Parity
from data.curriculum import Stage

STAGES = [Stage((3, 3), 10), Stage((4, 9), 13)]
CPU = torch.device("cpu")


def make(task=GroupWordProblem, **options):
    options = {"group": "S3", **options} if task is GroupWordProblem else options
    return task(curriculum=STAGES, train_lengths=(16, 20), seed=3, **options)


def rows(batches, padding):
    """The sequences of batches, without their padding."""
    for inputs, labels in batches:
        for x, y in zip(inputs, labels, strict=True):
            kept = int((x != padding).sum())
            yield x[:kept].tolist(), y[:kept].tolist()


@pytest.mark.parametrize("task", [GroupWordProblem, ModularArithmetic, Parity, CycleNavigation])
def test_a_sample_depends_on_its_number_alone(task):
    one_by_one = [make(task, batch_size=1).training_batch(range(i, i + 1), CPU) for i in range(40)]
    padding = make(task, batch_size=1).padding if task is GroupWordProblem else 0
    want = list(rows(one_by_one, padding))
    for size in (2, 7, 40):
        data = make(task, batch_size=size)
        batches = [data.training_batch(range(i, min(i + size, 40)), CPU) for i in range(0, 40, size)]
        assert list(rows(batches, padding)) == want


def test_each_stage_has_its_lengths():
    data = make(batch_size=1)
    lengths = [len(x) - 1 for x, _ in rows([data.training_batch(range(200), CPU)], data.padding)]
    assert set(lengths[:10]) == {3} and set(lengths[10:23]) == {4, 5, 6, 7, 8, 9} and min(lengths[23:]) == 16
    plain = GroupWordProblem("S3", train_lengths=(16, 20), seed=3)
    later, same = (list(rows([d.training_batch(range(23, 90), CPU)], data.padding)) for d in (data, plain))
    assert later == same  # after the stages, the samples of a run without them


def test_batches_drawn_for_many_steps_at_once_are_those_of_each_step(monkeypatch):
    monkeypatch.setattr("data.tasks.synthetic.GPU_TOKENS", 64)
    data = make(batch_size=4)
    for first, stride in ((0, 4), (4, 8), (0, 12)):
        alone = islice(data.training_batches(first, stride, CPU), 9)
        with monkeypatch.context() as patch:  # a device that takes the way of a GPU, without one
            patch.setattr(torch, "arange", lambda *a, arange=torch.arange, **_: arange(*a))
            together = list(islice(data.training_batches(first, stride, SimpleNamespace(type="cuda")), 9))
        for got, want in zip(together, alone, strict=True):
            assert torch.equal(got.inputs, want.inputs) and torch.equal(got.labels, want.labels)


def test_a_curriculum_ends_with_its_samples(as_rank):
    data = as_rank(make(batch_size=4), ranks=2)
    assert data.in_curriculum
    data.trainer.global_step = 2  # 16 samples
    assert data.in_curriculum
    data.trainer.global_step = 3
    assert not data.in_curriculum and not as_rank(Parity()).in_curriculum


def test_labels_are_counted_over_stages():
    data = make(Parity, batch_size=1, supervision="every_prefix")
    for samples in (range(10), range(5, 30), range(40)):
        drawn = data.training_batch(samples, CPU).labels
        assert data.labels_of(samples) == (drawn != -100).sum()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage((0, 3), 5), r"curriculum: must be \[shortest, longest\] with 1 <= shortest <= longest, got \[0, 3\]"),
        (Stage((5, 3), 5), r"curriculum: must be \[shortest, longest\] with 1 <= shortest <= longest, got \[5, 3\]"),
        (Stage((1, 3), 0), "curriculum: a stage must have at least 1 sample, got 0"),
    ],
)
def test_bad_stages_are_one_line(stage, message):
    with pytest.raises(ValueError, match=message):
        GroupWordProblem("S3", curriculum=[stage])
