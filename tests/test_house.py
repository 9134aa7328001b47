"""Rules of the house: who imports whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "lrnn/ops": {"lightning", "data", "callbacks", "lrnn.models", "torchmetrics"},
    "lrnn/ops/kernels": {"torch", "lightning", "data", "callbacks", "lrnn"},
    "lrnn/models": {"data", "callbacks"},
    "data": {"lrnn", "callbacks"},
    "callbacks": {"lrnn", "data"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("room", FORBIDDEN)
def test_who_may_import_whom(room):
    files = list((ROOT / room).glob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            for name in FORBIDDEN[room]:
                within = module.startswith("lrnn.ops.kernels.") and room == "lrnn/ops/kernels"
                assert within or (module != name and not module.startswith(name + ".")), f"{path} imports {module}"


def test_importing_lrnn_needs_neither_triton_nor_fla():
    code = "import sys; sys.modules.update(triton=None, fla=None); import lrnn, lrnn.ops, lrnn.models, callbacks"
    subprocess.run([sys.executable, "-c", f"{code}\nfrom data import *"], check=True, cwd=ROOT)


def test_preparing_data_needs_neither_torch_nor_optional_libraries():
    absent = "torch, lightning, datasets, pyarrow, tokenizers, huggingface_hub"
    code = f"import sys; sys.modules.update(dict.fromkeys('{absent}'.split(', '))); import data.prepare"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
