"""LightningDataModules, one file a task."""

from data.cycle_navigation import CycleNavigation
from data.even_pairs import EvenPairs
from data.modular_arithmetic import ModularArithmetic
from data.modular_arithmetic_brackets import ModularArithmeticBrackets
from data.parity import Parity
from data.synthetic import Batch, SyntheticTask

__all__ = [
    "Batch",
    "CycleNavigation",
    "EvenPairs",
    "ModularArithmetic",
    "ModularArithmeticBrackets",
    "Parity",
    "SyntheticTask",
]
