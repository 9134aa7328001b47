"""Layers that the architectures share: linear maps, norms, the short convolution, the MLP."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.ops import Form, add_norm, check_choice, dtype_of_products, linear, rms_norm, short_convolution, swiglu

Norm = Literal["rms", "layer"]


class Linear(nn.Linear):
    """Linear map without a bias, whose weight's gradient is not rounded to 16 bits (lrnn/ops/linear)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight)


class RMSNorm(nn.RMSNorm):
    """RMS norm over the last dimension of x (B, T, ..., size), by the op of lrnn/ops/norm."""

    eps: float

    def __init__(self, size: int, eps: float, form: Form = "auto"):
        super().__init__(size, eps)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, form=self.form)


class AddRMSNorm(nn.RMSNorm):
    """Sum x + y of the residual stream and a branch, both (B, T, size), and the RMS norm of the sum."""

    eps: float

    def __init__(self, size: int, eps: float, form: Form = "auto"):
        super().__init__(size, eps)
        self.form = form

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # the base class takes x only
        return add_norm(x, y, self.weight, self.eps, form=self.form)


class AddLayerNorm(nn.LayerNorm):
    """Sum x + y of the residual stream and a branch, both (B, T, size), and the layer norm of the sum."""

    def __init__(self, size: int, eps: float):
        super().__init__(size, eps, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # the base class takes x only
        s = x + y.to(x.dtype)
        return s, super().forward(s).to(dtype_of_products(x))


def make_add_norm(norm: Norm, size: int, eps: float, form: Form) -> nn.Module:
    """Make the module that adds the two terms of the residual stream, and normalises the sum.

    Raises:
        ValueError: if there is no such norm.
    """
    check_choice("model.norm", norm, get_args(Norm))
    return AddRMSNorm(size, eps, form) if norm == "rms" else AddLayerNorm(size, eps)


def empty_state(x: Tensor) -> Tensor:
    """Return the state (B, 0, C) of a convolution over one token of x (B, T, C).

    It is no view of x, which would keep all of x in memory as long as the state.
    """
    return x.new_empty(x.shape[0], 0, x.shape[2])


class ShortConvolution(nn.Module):
    """Causal depthwise convolution over the last `kernel_size` tokens and SiLU; with size 0, SiLU alone.

    The weight is (channels, kernel_size); its last tap is for the current token. The state is (B, kernel_size - 1,
    channels). The taps are initialised as those of a depthwise torch.nn.Conv1d. If `init_std` is given, they are drawn
    from a normal distribution of that standard deviation.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        bias: bool = False,
        form: Form = "auto",
        init_std: float | None = None,
    ):
        super().__init__()
        if kernel_size < 0:
            raise ValueError(f"model.conv_size: must be 0 (no convolution) or more, got {kernel_size}")
        if init_std is not None and init_std <= 0:
            raise ValueError(f"model.conv_init_std: must be above 0, got {init_std}")
        self.kernel_size = kernel_size
        self.form = form
        if kernel_size:
            bound = kernel_size**-0.5
            self.weight = nn.Parameter(torch.empty(channels, kernel_size).uniform_(-bound, bound))
            self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None
            if init_std is not None:
                nn.init.normal_(self.weight, std=init_std)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.kernel_size == 0:
            return F.silu(x), empty_state(x)
        return short_convolution(x, self.weight, self.bias, state, form=self.form)


class SwiGLU(Mixer):
    """Gated MLP: down(SiLU(gate(x)) * up(x))."""

    pointwise = True

    def __init__(self, layer: Layer, mlp_width: int):
        """
        Args:
            layer: place in the model.
            mlp_width: hidden width of the MLP.
        """
        super().__init__()
        if mlp_width < 1:
            raise ValueError(f"model.mlp_width: must be at least 1, got {mlp_width}")
        self.form = layer.form
        self.gate_up = Linear(layer.width, 2 * mlp_width)
        self.down = Linear(mlp_width, layer.width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        return self.down(swiglu(self.gate_up(x), form=self.form)), ()


class MLP(Mixer):
    """Plain MLP with biases: down(GELU(up(x))).

    With it, one layer of DeltaProduct learns all 120 elements of S5 in some thousand steps. With a SwiGLU it does not.
    """

    pointwise = True

    def __init__(self, layer: Layer, hidden: int):
        """
        Args:
            layer: place in the model.
            hidden: hidden width.
        """
        super().__init__()
        if hidden < 1:
            raise ValueError(f"model.hidden: must be at least 1, got {hidden}")
        self.up = nn.Linear(layer.width, hidden)
        self.down = nn.Linear(hidden, layer.width)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        return self.down(F.gelu(self.up(x))), ()
