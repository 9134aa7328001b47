"""LightningDataModules, one file a task."""

from data.parity import Parity
from data.synthetic import Batch, SyntheticTask

__all__ = ["Batch", "Parity", "SyntheticTask"]
