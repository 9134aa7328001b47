"""Which package may import which, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = "lrnn/ops/*/kernels*.py"
LEAVES = (
    "choices",
    "contract",
    "length_figure",
    "metrics",
    "perplexity_figure",
    "perplexity_scoring",
    "record",
    "scoring",
)  # of lrnn.evaluate
# files -> (what they may not import, exceptions to that)
FORBIDDEN = {
    "lrnn/ops/**/*.py": ({"lightning", "data", "callbacks", "lrnn", "torchmetrics"}, {"lrnn.ops"}),
    KERNELS: ({"torch", "lightning", "data", "callbacks", "lrnn"}, {"lrnn.ops.common.exponential"}),
    "lrnn/models/**/*.py": ({"data", "callbacks", "lrnn"}, {"lrnn.models", "lrnn.ops"}),
    **{
        f"lrnn/evaluate/{leaf}.py": ({"data", "callbacks", "lrnn"}, {f"lrnn.evaluate.{other}" for other in LEAVES})
        for leaf in LEAVES
    },
    "lrnn/theory/spectra.py": ({"data", "callbacks", "lrnn"}, set()),
    "data/**/*.py": ({"lrnn", "callbacks"}, set()),
    "callbacks/**/*.py": ({"lrnn", "data"}, {*(f"lrnn.evaluate.{leaf}" for leaf in LEAVES), "lrnn.theory.spectra"}),
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def within(module, packages):
    return any(module == name or module.startswith(name + ".") for name in packages)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_who_may_import_whom(pattern):
    forbidden, allowed = FORBIDDEN[pattern]
    if pattern == KERNELS:  # those that share a kernel's helpers
        allowed = {*allowed, "lrnn.ops.short_convolution.kernels"}
    files = list(ROOT.glob(pattern))
    assert files
    for path in files:
        for module in imports(path):
            assert within(module, allowed) or not within(module, forbidden), f"{path} imports {module}"


@pytest.mark.slow
def test_importing_lrnn_needs_neither_triton_nor_fla():
    code = "import sys; sys.modules.update(triton=None, fla=None); import lrnn, lrnn.ops, lrnn.models, callbacks"
    subprocess.run([sys.executable, "-c", f"{code}\nfrom data import *"], check=True, cwd=ROOT)


def test_preparing_data_needs_neither_torch_nor_optional_libraries():
    absent = "torch, lightning, datasets, pyarrow, tokenizers, huggingface_hub"
    code = f"import sys; sys.modules.update(dict.fromkeys('{absent}'.split(', '))); import data.prepare"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
