"""What a GPU can't run is said in one line before the data are read."""

import pytest

from lrnn.ops.common import cards
from lrnn.ops.common.cards import CARDS
from lrnn.runtime.card import check_card, fault_of_triton
from lrnn.runtime.errors import ConfigError


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Tesla T4")


def test_a_card_without_the_products_is_refused():
    with cards.pretend(CARDS["T4"]):
        with pytest.raises(
            ConfigError, match=r"^trainer\.accelerator: Tesla T4 .* 7\.5, .* set --model\.form=chunked.*$"
        ):
            check_card("auto", "auto")
        check_card("gpu", "chunked")
        check_card("cpu", "auto")


@pytest.mark.parametrize(
    ("card", "version", "said"),
    [
        ("H100", (3, 7, 1), "triton#11366"),
        ("H100", (3, 6, 0), None),
        ("A100", (3, 7, 1), None),
        ("B200", (3, 7, 1), "triton#10590"),
        ("RTX5090", (3, 7, 1), "install Triton 3.8"),
        ("B200", (3, 8, 0), None),
    ],
)
def test_a_triton_that_is_wrong_for_the_card_is_named(monkeypatch, caplog, card, version, said):
    monkeypatch.setattr(cards, "triton_version", lambda: version)
    monkeypatch.setattr("lrnn.runtime.card.triton_version", lambda: version)
    with cards.pretend(CARDS[card]):
        check_card("auto", "auto")
    assert len(caplog.messages) == (said is not None)
    assert said is None or (said in fault_of_triton(CARDS[card]) and "\n" not in caplog.text.strip())
