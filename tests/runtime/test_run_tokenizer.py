"""The tokenizer of a run is the one that its config.yaml names."""

import pytest

from lrnn.runtime.errors import ConfigError
from lrnn.runtime.run_tokenizer import tokenizer_of_run


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [("data: {init_args: {tokenizer: a/b}}", "a/b"), ("data: {init_args: {seed: 1}}", None), ("", None)],
)
def test_it_is_read_from_the_configuration(text, tokenizer, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    assert tokenizer_of_run(tmp_path / "config.yaml") == tokenizer


@pytest.mark.parametrize(
    "text", ["- a", "3", "data: [", "data: {init_args: [1]}", "data: {init_args: {tokenizer: [1]}}", None]
)
def test_what_is_no_configuration_is_refused_in_one_line(text, tmp_path):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"^run_dir: .*config\.yaml") as error:
        tokenizer_of_run(tmp_path / "config.yaml")
    assert "\n" not in str(error.value)
