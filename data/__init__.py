"""LightningDataModules, one file a task; token shards for language modelling.

The classes are imported when first used: `python -m data.prepare` and its workers need neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.cycle_navigation import CycleNavigation
    from data.errors import DataError
    from data.even_pairs import EvenPairs
    from data.fineweb import FineWeb
    from data.modular_arithmetic import ModularArithmetic
    from data.modular_arithmetic_brackets import ModularArithmeticBrackets
    from data.parity import Parity
    from data.resumable import Batch
    from data.synthetic import SyntheticTask

__all__ = [
    "Batch",
    "CycleNavigation",
    "DataError",
    "EvenPairs",
    "FineWeb",
    "ModularArithmetic",
    "ModularArithmeticBrackets",
    "Parity",
    "SyntheticTask",
]

_HOME = {
    "Batch": "data.resumable",
    "CycleNavigation": "data.cycle_navigation",
    "DataError": "data.errors",
    "EvenPairs": "data.even_pairs",
    "FineWeb": "data.fineweb",
    "ModularArithmetic": "data.modular_arithmetic",
    "ModularArithmeticBrackets": "data.modular_arithmetic_brackets",
    "Parity": "data.parity",
    "SyntheticTask": "data.synthetic",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'data' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
