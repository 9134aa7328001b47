import pytest
import torch
import torch.nn.functional as F

from lrnn.ops import linear


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_of_the_weight_is_not_rounded(device, compiled):
    """Output and gradient of x equal those of PyTorch; the gradient of the weight is nearer to the exact one."""
    x, weight = torch.randn(2, 300, 16, device=device), torch.randn(24, 16, device=device)
    dy = torch.randn(2, 300, 24, device=device).bfloat16()
    results = []
    for op in (linear, F.linear):
        backend = "inductor" if device == "cuda" else "aot_eager"  # inductor compiles C++ for half a minute
        op = torch.compile(op, fullgraph=True, backend=backend) if compiled else op
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast(device, dtype=torch.bfloat16):
            y = op(*inputs)
        results.append((y, *torch.autograd.grad(y, inputs, dy)))
    (y, dx, dweight), (y_0, dx_0, dweight_0) = results
    torch.testing.assert_close(y, y_0, rtol=0.01, atol=1e-3)
    torch.testing.assert_close(dx, dx_0, rtol=0.01, atol=1e-3)
    assert dweight.dtype == torch.float32
    exact = torch.einsum("bto,bti->oi", dy.double(), x.bfloat16().double())
    error, error_0 = ((d.double() - exact).norm() / exact.norm() for d in (dweight, dweight_0))
    assert error_0 < 0.01
    assert error < (error_0 / 100 if device == "cuda" else 0.01)  # a CPU has no product that returns float32


def test_without_autocast_it_equals_pytorch():
    x, weight = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=0, atol=0)
