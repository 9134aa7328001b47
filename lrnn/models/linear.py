"""The linear layer of the architectures that train in 16 bits, and of every MLP."""

from torch import Tensor, nn

from lrnn.ops import linear


class Linear(nn.Linear):
    """Without a bias; its weight's gradient is not rounded to 16 bits (lrnn/ops/linear/op.py)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight)
