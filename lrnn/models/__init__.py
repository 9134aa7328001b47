"""Architectures. The file of each holds its mixer and its LightningModule."""

from lrnn.models.architecture import Architecture
from lrnn.models.delta_net import DeltaNet, DeltaNetMixer
from lrnn.models.delta_product import DeltaProduct, DeltaProductMixer
from lrnn.models.diagonal import Diagonal, DiagonalMixer
from lrnn.models.full_matrix import FullMatrix, FullMatrixMixer
from lrnn.models.hybrid import Hybrid
from lrnn.models.language_model import LanguageModel
from lrnn.models.layers import MLP, SwiGLU
from lrnn.models.mamba import Mamba, MambaMixer
from lrnn.models.mixer import Layer, Mixer
from lrnn.models.mlstm import MLSTM, MLSTMMixer
from lrnn.models.slstm import SLSTM, SLSTMMixer
from lrnn.models.token_matrices import TokenMatrices
from lrnn.models.transformer import AttentionMixer, Transformer

__all__ = [
    "MLP",
    "MLSTM",
    "SLSTM",
    "Architecture",
    "AttentionMixer",
    "DeltaNet",
    "DeltaNetMixer",
    "DeltaProduct",
    "DeltaProductMixer",
    "Diagonal",
    "DiagonalMixer",
    "FullMatrix",
    "FullMatrixMixer",
    "Hybrid",
    "LanguageModel",
    "Layer",
    "MLSTMMixer",
    "Mamba",
    "MambaMixer",
    "Mixer",
    "SLSTMMixer",
    "SwiGLU",
    "TokenMatrices",
    "Transformer",
]
