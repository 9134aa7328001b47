"""Sampling on a GPU as one CUDA graph. It is a hundred kernels and more, of a microsecond or two each: launched one by
one, they take about as long as a small model's training step."""

from collections.abc import Callable

import torch
from torch import Tensor

from data.resumable import Batch


class RecordedDraw:
    """`draw(index)` for samples first, first + 1, ... of a fixed number; its shapes must not depend on their values."""

    def __init__(self, draw: Callable[[Tensor], Batch], samples: int, device: torch.device):
        self.index = torch.arange(samples, device=device)
        draw(self.index)  # kernels are loaded at their first call, which cannot be recorded
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self.graph):
            self.batch = draw(self.index)

    def __call__(self, first: int) -> Batch:
        torch.arange(first, first + len(self.index), out=self.index)
        self.graph.replay()
        return Batch(*(x.clone() for x in self.batch))  # the next replay writes over it
