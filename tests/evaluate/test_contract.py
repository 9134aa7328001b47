"""Every model and data module of ours keeps the contract, and what lacks a member is refused by its name."""

import inspect
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import data
import lrnn.models
from callbacks import LengthGeneralization
from callbacks.contract import CountedData, TrainedModel, trained_model
from lrnn.evaluate.choices import ChoiceTask
from lrnn.evaluate.contract import LengthTask, RecurrentModel, missing_members

ARCHITECTURES = [
    cls
    for cls in vars(lrnn.models).values()
    if isinstance(cls, type) and issubclass(cls, lrnn.models.Architecture) and cls is not lrnn.models.Architecture
]
TASKS = [
    cls
    for cls in (getattr(data, name) for name in data.__all__)
    if issubclass(cls, data.SyntheticTask | data.StateTrackingText) and not inspect.isabstract(cls)
]


def keeps(value, contract):
    """Whether the value has all members, and its methods take the arguments that the contract names."""
    methods = {name: method for name, method in vars(contract).items() if inspect.isfunction(method)}
    methods = {name: method for name, method in methods.items() if name == "__call__" or not name.startswith("_")}
    for name, method in methods.items():
        ours = getattr(value, "forward" if name == "__call__" else name)
        wanted = list(inspect.signature(method).parameters)[1:]
        assert list(inspect.signature(ours).parameters)[: len(wanted)] == wanted, (value, name)
    return isinstance(value, contract)


@pytest.mark.parametrize("model", ARCHITECTURES, ids=lambda cls: cls.__name__)
def test_models_keep_the_contract(model):
    with torch.device("meta"):
        built = model()
    assert keeps(built, RecurrentModel) and keeps(built, TrainedModel)


@pytest.mark.parametrize("task", TASKS, ids=lambda cls: cls.__name__)
def test_tasks_keep_the_contract(task):
    built = task(group="S3") if task is data.GroupWordProblem else task()
    assert keeps(built, LengthTask) and keeps(built, CountedData)
    assert task is not data.StateTrackingText or keeps(built, ChoiceTask)


def test_text_keeps_the_contract_of_training_alone(random_shards):
    text = data.FineWeb(str(random_shards))
    assert keeps(text, CountedData)
    assert "evaluation_batches" in missing_members(text, LengthTask)


def test_what_lacks_a_member_is_refused_by_its_name():
    with pytest.raises(MisconfigurationException, match=r"model: LightningModule has no flops_per_token, hot_paths"):
        trained_model(L.LightningModule())
    trainer = SimpleNamespace(datamodule=L.LightningDataModule())
    with pytest.raises(MisconfigurationException, match=r"data: LightningDataModule has no chance, .*LengthTask"):
        LengthGeneralization().setup(trainer, None, "fit")
