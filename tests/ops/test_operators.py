"""What a compiler is told of each operator is true. Else compiled code would read other memory than was written.

Without a GPU the operators run in Triton's interpreter.
"""

import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from lrnn.ops.delta_rule.operators_long import delta_rule_op as long_delta_rule_op
from lrnn.ops.delta_rule.operators_short import delta_rule_op as short_delta_rule_op
from lrnn.ops.norm.operators import add_norm_op, rms_norm_op
from lrnn.ops.qkv_convolution.operators import qkv_convolution_op
from lrnn.ops.selective_scan.operators import selective_scan_op
from lrnn.ops.short_convolution.operators import short_convolution_op
from lrnn.ops.slstm.operators import slstm_op
from lrnn.ops.swiglu.operators import swiglu_op

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

B, T, H, D = 2, 5, 2, 16
DELTA_RULE = ((B, T, H, D),) * 3 + ((B, T, H), (B, H, D, D))
OPERATORS = {  # how to call each, and the shapes of its tensors
    "delta_rule_short": (short_delta_rule_op, (*DELTA_RULE[:4], (B, T, H), DELTA_RULE[4])),
    "delta_rule_long": (lambda *x: long_delta_rule_op(*x, True), DELTA_RULE),
    "add_norm": (lambda *x: add_norm_op(*x, 1e-3, torch.float32), ((B, T, D), (B, T, D), (D,))),
    "rms_norm": (lambda *x: rms_norm_op(*x, 1e-3), ((B, T, D), (D,))),
    "qkv_convolution": (lambda *x: qkv_convolution_op(*x, H), ((B, T, 3 * H * D + 3), (3 * H * D, 4))),
    "selective_scan": (
        lambda u, dt, *x: selective_scan_op(u, dt.exp(), *x, None, None, 2, True),
        ((B, T, D), (B, T, D), (D, 4), (B, T, 4), (B, T, 4), (D,), (B, D, 4)),
    ),
    "short_convolution": (short_convolution_op, ((B, T, D), (D, 4), (D,))),
    "slstm": (lambda *x: slstm_op(*x, True), ((B, T, H, 4, D), (H, D, 4 * D), (4, B, H, D))),
    "swiglu": (swiglu_op, ((B, T, 2 * D),)),
}


class Checked(TorchDispatchMode):
    """Checks each call of our operators: shape, strides and dtype of the results, and that inputs stay as they are."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "lrnn":
            self.seen.add(operator._schema.name.removeprefix("lrnn::"))
            inputs = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in args)
            torch.library.opcheck(operator, inputs, kwargs, test_utils=("test_schema", "test_faketensor"))
        return operator(*args, **kwargs or {})


def check(name, call, shapes, dtypes):
    """Check forward and backward; the inputs lie in memory in another order than their dimensions."""
    inputs = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
        x = 0.1 * torch.randn(shape[::-1], device=DEVICE).permute(*reversed(range(len(shape))))
        inputs.append(x.to(dtype).requires_grad_())
    with Checked() as checked:
        results = [x for x in torch.utils._pytree.tree_leaves(call(*inputs)) if x.requires_grad]
        torch.autograd.grad(results, inputs, [torch.randn_like(x) for x in results], allow_unused=True)
    assert checked.seen == {name, f"{name}_backward"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_what_a_compiler_is_told(name, dtype):
    if name == "delta_rule_long" and dtype == torch.float32:
        pytest.skip("float32 runs in the short kernels alone")
    call, shapes = OPERATORS[name]
    dtypes = [dtype] * len(shapes)
    if name.startswith("delta_rule"):
        dtypes[3:] = [torch.float32] * len(dtypes[3:])  # beta, gate and state
    check(name, call, shapes, dtypes)


@pytest.mark.skipif(DEVICE == "cpu", reason="flash-linear-attention needs a GPU")
def test_results_of_flash_linear_attention(quick_flash_linear_attention):
    from lrnn.ops.delta_rule.operators_fla import delta_rule_op

    def call(q, k, v, beta, state):
        return delta_rule_op(q, k, v, beta, None, state)[:2]

    check("delta_rule_fla", call, DELTA_RULE, [torch.bfloat16] * 3 + [torch.float32] * 2)


def test_every_operator_is_checked():
    files = (Path(__file__).parents[2] / "lrnn/ops").rglob("operators*.py")
    ours = {name for file in files for name in re.findall(r'custom_op\("lrnn::(\w+)"', file.read_text())}
    assert ours == {f"{name}{suffix}" for name in (*OPERATORS, "delta_rule_fla") for suffix in ("", "_backward")}
