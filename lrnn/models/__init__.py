"""Architectures: one file each, its mixer and its LightningModule."""

from lrnn.models.delta_net import DeltaNet
from lrnn.models.diagonal import Diagonal
from lrnn.models.full_matrix import FullMatrix
from lrnn.models.language_model import LanguageModel
from lrnn.models.mamba import Mamba
from lrnn.models.mlstm import MLSTM
from lrnn.models.slstm import SLSTM
from lrnn.models.transformer import Transformer

__all__ = ["MLSTM", "SLSTM", "DeltaNet", "Diagonal", "FullMatrix", "LanguageModel", "Mamba", "Transformer"]
