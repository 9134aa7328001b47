"""LightningDataModules: synthetic tasks (data/tasks/, one file a task), text as token shards (data/text/), and state
tracking in text (data/state_tracking/).

A class is imported when it is first used, so that `python -m data.prepare` and its workers need neither torch nor
Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.errors import DataError
    from data.resumable import Batch
    from data.state_tracking.rows import StateTrackingText
    from data.tasks.cycle_navigation import CycleNavigation
    from data.tasks.even_pairs import EvenPairs
    from data.tasks.group import GroupWordProblem
    from data.tasks.modular_arithmetic import ModularArithmetic
    from data.tasks.modular_arithmetic_brackets import ModularArithmeticBrackets
    from data.tasks.parity import Parity
    from data.tasks.synthetic import SyntheticTask
    from data.text.fineweb import FineWeb

__all__ = [
    "Batch",
    "CycleNavigation",
    "DataError",
    "EvenPairs",
    "FineWeb",
    "GroupWordProblem",
    "ModularArithmetic",
    "ModularArithmeticBrackets",
    "Parity",
    "StateTrackingText",
    "SyntheticTask",
]

_MODULES = {
    "Batch": "data.resumable",
    "CycleNavigation": "data.tasks.cycle_navigation",
    "DataError": "data.errors",
    "EvenPairs": "data.tasks.even_pairs",
    "FineWeb": "data.text.fineweb",
    "GroupWordProblem": "data.tasks.group",
    "ModularArithmetic": "data.tasks.modular_arithmetic",
    "ModularArithmeticBrackets": "data.tasks.modular_arithmetic_brackets",
    "Parity": "data.tasks.parity",
    "StateTrackingText": "data.state_tracking.rows",
    "SyntheticTask": "data.tasks.synthetic",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'data' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
