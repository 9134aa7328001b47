"""Fixtures of the tests of ops."""

import warnings

import pytest


@pytest.fixture
def quick_flash_linear_attention(monkeypatch):
    """Import flash-linear-attention, and let its kernels take their first configuration.

    It warns when it is imported, and tunes for minutes at every new shape.
    """
    with warnings.catch_warnings(action="ignore"):
        from triton.runtime.autotuner import Autotuner

        import lrnn.ops.delta_rule.operators_fla  # noqa: F401

    monkeypatch.setattr(Autotuner, "prune_configs", lambda self, _: self.configs[:1])
