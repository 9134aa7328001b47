"""Architectures: one file each, its mixer and its LightningModule."""

from lrnn.models.delta_net import DeltaNet
from lrnn.models.linear_rnn import LinearRNN
from lrnn.models.mamba import Mamba

__all__ = ["DeltaNet", "LinearRNN", "Mamba"]
