"""Likelihoods with a shared prefix, and the three kinds of request, against reading each whole text on its own."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.text.tokenizer import load_tokenizer
from lrnn.evaluate.likelihood import Continuation, score_continuations
from lrnn.evaluate.requests import Requests
from lrnn.models import Mamba
from lrnn.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@torch.no_grad()
def recomputed(model, prefix, tokens):
    logits = model(torch.tensor([[*prefix, *tokens]]))[0][0, len(prefix) - 1 : -1].log_softmax(-1)
    return float(logits.gather(1, torch.tensor(tokens)[:, None]).sum()), logits.argmax(-1).tolist() == list(tokens)


def test_a_shared_state_gives_the_likelihood_of_each_whole_text(small_model, monkeypatch):
    monkeypatch.setattr("lrnn.evaluate.likelihood.TOKENS", 12)  # so that long continuations are read in parts
    model, draw = small_model.eval(), lambda length: torch.randint(50, (length,)).tolist()
    prefixes = [draw(n) for n in (9, 1, 9, 30, 70)]
    pairs = [Continuation(prefix, draw(n)) for n in (1, 4, 4, 11) for prefix in prefixes]
    pairs += [Continuation(pairs[0].prefix, []), pairs[3]]
    best = int(model(torch.tensor([prefixes[1]]))[0][0, -1].argmax())
    pairs.append(Continuation(prefixes[1], [best]))
    counts = []
    got = score_continuations(model, pairs, batch_size=3, done=counts.append)
    assert sum(counts) == len(pairs) and got[20] == (0.0, True) and got[-1].is_greedy
    for one, pair in zip(got, pairs, strict=True):
        if pair.tokens:
            want, greedy = recomputed(model, *pair)
            assert one.log_likelihood == pytest.approx(want, rel=1e-5, abs=1e-4) and one.is_greedy == greedy


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Mamba(vocab_size=32000, width=16, layers=1).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(ROOT / "data/mistral_v1"))


def asked(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


def test_loglikelihood_gives_spaces_to_the_continuation_and_cuts_long_contexts(model, tokenizer):
    requests = Requests(model, tokenizer, batch_size=2, max_length=6)
    long = "one two three four five six seven eight"
    got = requests.loglikelihood(asked(("The cat ", "sat"), ("", "It is"), (long, " nine")), disable_tqdm=True)
    the_cat, whole, it, longer = (
        ids.tolist() for ids in tokenizer.encode(["The cat", "The cat sat", "It is", f"{long} nine"])
    )
    assert whole[: len(the_cat)] == the_cat and len(longer) > 7
    want = [(the_cat, whole[len(the_cat) :]), ([2], it), (longer[-7:-1], longer[-1:])]
    for (value, greedy), (prefix, tokens) in zip(got, want, strict=True):
        assert (value, greedy) == (pytest.approx(recomputed(model, prefix, tokens)[0], abs=1e-4), False)


def test_a_continuation_that_merges_with_the_context_keeps_a_token(model, tokenizer):
    got = Requests(model, tokenizer).loglikelihood(asked(("f(", ")"), ("wh", "at"), ("f(", "")), disable_tqdm=True)
    call, what = (ids.tolist() for ids in tokenizer.encode(["f()", "what"]))
    assert len(call) == len(tokenizer.encode(["f("])[0]) and len(what) == 1
    want = [recomputed(model, call[:-1], call[-1:])[0], recomputed(model, [2], what)[0], 0.0]
    assert [value for value, _ in got] == pytest.approx(want, abs=1e-4)


def test_rolling_loglikelihood_in_windows_or_with_the_state_carried_on(model, tokenizer):
    text = "The quick brown fox jumps over the lazy dog and runs away."
    ids = tokenizer.encode([text])[0].tolist()
    n = len(ids)
    windows = [([2], ids[:8]), *([(ids[7:8], ids[8:16])] if n > 16 else [])]
    start = 8 * len(windows)
    assert start < n <= start + 8
    windows.append((ids[n - 9 : start], ids[start:]))  # the last window is full: it begins before the tokens it scores
    got = Requests(model, tokenizer, max_length=8).loglikelihood_rolling(asked((text,), ("",)), disable_tqdm=True)
    assert got == [pytest.approx(sum(recomputed(model, *window)[0] for window in windows), abs=1e-3), 0.0]
    whole = Requests(model, tokenizer, max_length=None).loglikelihood_rolling(asked((text,)), disable_tqdm=True)
    assert whole == [pytest.approx(recomputed(model, [2], ids)[0], abs=1e-3)]


def test_generate_until_a_stop_string(model, tokenizer):
    requests, options = Requests(model, tokenizer, batch_size=2), {"do_sample": False, "max_gen_toks": 12}
    contexts = ("The cat", "One two three", "")
    free = requests.generate_until(asked(*((text, {**options, "until": []}) for text in contexts)), disable_tqdm=True)
    with torch.no_grad():
        ids = tokenizer.encode(["One two three"])[0].tolist()
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids]))[0][0, -1].argmax()))
    assert free[1] == tokenizer.decode([i for i in ids[-12:] if i != 2])
    stop = free[1][len(free[1]) // 2 :][:3]
    (got,) = requests.generate_until(asked(("One two three", {**options, "until": [stop]})), disable_tqdm=True)
    assert got == free[1].split(stop)[0]


def test_a_request_that_is_repeated_is_drawn_anew_whatever_the_batch(model, tokenizer):
    options = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 4, "until": []}
    one, three = (
        Requests(model, tokenizer, batch_size).generate_until(asked(*[("The cat", options)] * 4), disable_tqdm=True)
        for batch_size in (1, 3)
    )
    assert one == three and len(set(one)) == 4


def test_a_max_length_that_leaves_too_little_is_refused(model, tokenizer):
    requests = Requests(model, tokenizer, max_length=4)
    with pytest.raises(ConfigError, match="max_length: must be at least 5, the tokens of a generated text and one of"):
        requests.generate_until(asked(("One two", {"max_gen_toks": 4})), disable_tqdm=True)
    with pytest.raises(ConfigError, match="max_length: must be at least 5, the tokens of a continuation, or null"):
        requests.loglikelihood(asked(("The", " cat and dog and cat")), disable_tqdm=True)
    ids = tokenizer.encode(["The cat and dog and"])[0].tolist()
    ((value, _),) = requests.loglikelihood(asked(("The", " cat and dog and")), disable_tqdm=True)
    assert len(ids) == 5 and value == pytest.approx(recomputed(model, ids[:1], ids[1:])[0], abs=1e-4)
