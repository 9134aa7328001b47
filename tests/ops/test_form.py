"""The choice of a form: what runs is recorded by its own name, and nothing else is imported."""

import importlib
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from lrnn.ops import delta_product, swiglu
from lrnn.ops.common import cards
from lrnn.ops.common import form as forms
from lrnn.ops.common.cards import CARDS
from lrnn.ops.common.form import Kernel, choose_form
from lrnn.ops.slstm.op import obstacle_of

op = importlib.import_module("lrnn.ops.delta_rule.op")
delta_product_op = importlib.import_module("lrnn.ops.delta_product.op")
swiglu_op = importlib.import_module("lrnn.ops.swiglu.op")


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch, caplog):
    monkeypatch.setattr(forms, "forms_in_use", {})
    forms._import_and_announce.cache_clear()
    caplog.set_level(logging.INFO, "lrnn")


def on_gpu(T=2, dtype=torch.bfloat16):
    """All that `choose_form` reads of a tensor on a GPU."""
    return SimpleNamespace(device=torch.device("cuda"), dtype=dtype, shape=(1, T, 4, 4))


def forget(monkeypatch, package, module):
    """Let imports of `package` fail, and let `module` be imported anew."""
    for name in (*sys.modules, package):
        if name.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.mark.parametrize(
    ("T", "K", "V", "dtype", "kernel"),
    [
        (256, 32, 32, torch.bfloat16, op.SHORT),
        (257, 32, 32, torch.bfloat16, op.LONG),
        (64, 33, 16, torch.bfloat16, op.SHORT),
        (65, 16, 33, torch.float16, op.LONG),
        (2048, 128, 128, torch.float32, op.SHORT),
        (2048, 128, 128, torch.bfloat16, op.LONG),
        (2, 16, 129, torch.bfloat16, op.FLA),
    ],
)
def test_kernels_of_the_delta_rule_on_an_h100(T, K, V, dtype, kernel):
    assert op.choose_kernel(T, K, V, dtype, CARDS["H100"]) == kernel
    assert op.obstacle_of(dtype, K, V, CARDS["H100"]) is None


@pytest.mark.parametrize(
    ("card", "triton", "T", "K", "dtype", "kernel", "obstacle"),
    [
        ("A100", (3, 7), 2, 128, torch.bfloat16, op.LONG, None),  # the short kernels collapse there
        ("A100", (3, 7), 40, 32, torch.bfloat16, op.SHORT, None),
        ("L40S", (3, 7), 40, 32, torch.float32, op.SHORT, None),
        ("A100", (3, 7), 2048, 64, torch.float32, None, "heads of 64 in torch.float32 on this GPU, only up to 32"),
        ("B200", (3, 7), 2048, 128, torch.bfloat16, op.FLA, None),  # ours would race
        ("B200", (3, 7), 2048, 32, torch.bfloat16, op.FLA, None),
        ("B200", (3, 7), 2048, 32, torch.float32, op.SHORT, None),
        ("B200", (3, 8), 2048, 128, torch.bfloat16, op.LONG, None),
        ("T4", (3, 7), 40, 32, torch.float16, None, "a GPU of compute capability 7.5, only 8.0 and later"),
    ],
)
def test_kernels_of_the_delta_rule_on_other_cards(monkeypatch, card, triton, T, K, dtype, kernel, obstacle):
    monkeypatch.setattr(cards, "triton_version", lambda: triton)
    assert op.obstacle_of(dtype, K, K, CARDS[card]) == obstacle
    if obstacle is None:
        assert op.choose_kernel(T, K, K, dtype, CARDS[card]) == kernel


def test_a_compiler_takes_the_card_as_a_constant():
    """The card of a tensor is asked while the op is traced."""
    q, beta = torch.randn(1, 3, 2, 4), torch.rand(1, 3, 2)
    compiled = torch.compile(op.delta_rule, fullgraph=True, backend="eager")
    with cards.pretend(CARDS["A100"]):
        torch.testing.assert_close(compiled(q, q, q, beta)[0], op.delta_rule(q, q, q, beta)[0])


@pytest.mark.parametrize("kernel", [op.SHORT, op.LONG], ids=lambda kernel: kernel.name)
def test_our_kernels_run_without_flash_linear_attention(monkeypatch, caplog, kernel):
    pytest.importorskip("triton")
    forget(monkeypatch, "fla", op.FLA.module)
    assert choose_form("delta_rule", "auto", [on_gpu()], kernel=kernel) == "triton"
    assert forms.forms_in_use == {"delta_rule": kernel.name}
    assert caplog.messages == [f"delta_rule runs as {kernel.name} on cuda in bfloat16"]
    assert kernel.module in sys.modules and op.FLA.module not in sys.modules


@pytest.mark.parametrize(
    ("kernel", "module", "package"),
    [(op.FLA, "fla", "flash-linear-attention"), (swiglu_op.KERNEL, "triton", "triton")],
)
def test_the_package_that_is_missing_is_named(monkeypatch, kernel, module, package):
    forget(monkeypatch, module, kernel.module)
    with pytest.raises(ImportError, match=rf"needs {package}, .* pip install {package}, or use --model\.form=chunked$"):
        choose_form("an_op", "auto", [on_gpu()], kernel=kernel)


def test_a_gpu_without_kernels_is_warned_about_once(caplog):
    for _ in range(2):
        assert choose_form("mlstm", "auto", [on_gpu()]) == "chunked"
        assert choose_form("delta_rule", "auto", [on_gpu()], kernel=op.FLA, obstacle="heads of 300") == "chunked"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "mlstm runs as chunked on a GPU, which is slower than a kernel: it has no kernels"),
        (
            "WARNING",
            "delta_rule runs as chunked on a GPU, which is slower than a kernel: its kernels can't take heads of 300",
        ),
    ]


def test_large_heads_with_a_gate_are_what_the_kernels_of_the_delta_product_cannot_take(monkeypatch, caplog):
    def on_a_gpu(op, form, tensors, **options):
        return choose_form(op, form, [on_gpu(dtype=tensors[0].dtype)], **options)

    monkeypatch.setattr(delta_product_op, "choose_form", on_a_gpu)
    q, k, beta = torch.randn(1, 3, 1, 65), torch.randn(1, 3, 2, 1, 65), torch.rand(1, 3, 2, 1)
    delta_product(q, k, k, beta, -torch.rand(1, 3, 1))
    assert caplog.messages[-1].endswith("can't take heads of 65 with a gate in torch.float32, only up to 64")
    assert forms.forms_in_use["delta_product"] == "chunked"


@pytest.mark.parametrize(("kernel", "tensor"), [(Kernel("k", "m"), torch.zeros(1, 2, 3)), (None, on_gpu())])
def test_triton_where_it_cannot_run_is_refused(kernel, tensor):
    with pytest.raises(ValueError, match=r"use --model\.form=auto or --model\.form=chunked$"):
        choose_form("an_op", "triton", [tensor], kernel=kernel)


def test_what_the_kernels_of_the_slstm_cannot_take(monkeypatch):
    assert obstacle_of(64, CARDS["H100"]) is None and obstacle_of(32, CARDS["L40S"]) is None
    assert obstacle_of(65, CARDS["A100"]) == "heads above 64 on this GPU"
    assert obstacle_of(64, CARDS["L40S"]) == "heads above 32 on this GPU"
    monkeypatch.setattr(cards, "triton_version", lambda: (3, 7, 1))
    assert obstacle_of(32, CARDS["B200"]) == "this GPU before Triton 3.8, which lets warps race on it"


@pytest.mark.parametrize(
    ("card", "triton", "T", "K", "kernel", "obstacle"),
    [
        ("H100", (3, 7, 1), 2048, 32, op.SHORT, None),
        ("H100", (3, 7, 1), 64, 64, op.SHORT, None),
        ("H100", (3, 7, 1), 65, 64, op.FLA, None),  # the long kernels have no gate
        ("H100", (3, 7, 1), 64, 65, op.FLA, None),
        ("H100", (3, 6, 0), 2048, 64, op.SHORT, None),
        ("H100", (3, 6, 0), 64, 65, None, "heads of 65 with a gate in {}, only up to 64 before Triton 3.7.1"),
        ("A100", (3, 6, 0), 40, 32, op.SHORT, None),
        ("A100", (3, 6, 0), 40, 33, op.FLA, None),
        ("B200", (3, 7, 1), 2048, 128, op.FLA, None),
    ],
)
def test_kernels_of_the_delta_rule_with_a_gate(monkeypatch, card, triton, T, K, kernel, obstacle):
    monkeypatch.setattr(cards, "triton_version", lambda: triton)
    dtype = torch.bfloat16
    assert op.obstacle_of(dtype, K, K, CARDS[card], gated=True) == (obstacle and obstacle.format(dtype))
    if obstacle is None:
        assert op.choose_kernel(T, K, K, dtype, CARDS[card], gated=True) == kernel
    assert op.choose_kernel(T, 32, 32, torch.float32, CARDS[card], gated=True) == op.SHORT


@pytest.mark.parametrize("form", ["auto", "recurrent", "chunked"])
@pytest.mark.parametrize("compiled", [False, True])
def test_code_that_both_pytorch_forms_share_is_recorded_as_pytorch(form, compiled):
    """A compiled op is recorded when it is traced."""
    function = torch.compile(swiglu, fullgraph=True, backend="eager") if compiled else swiglu
    function(torch.randn(1, 2, 4), form=form)
    assert forms.forms_in_use == {"swiglu": "pytorch"}


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"^swiglu: form: must be auto, recurrent, chunked or triton, got Chunked$"):
        swiglu(torch.randn(1, 2, 4), form="Chunked")
