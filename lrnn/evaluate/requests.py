"""The three kinds of request of lm-evaluation-harness, answered by our models. This file does not need the harness.

    loglikelihood            (context, continuation)     log-likelihood of the continuation, and whether it is greedy
    loglikelihood_rolling    (text,)                     log-likelihood of a whole text
    generate_until           (context, options)          the text that follows, up to a stop string

Tokens are cut exactly as the harness's adapter for Hugging Face models cuts them, so that the numbers can be compared.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from tqdm import tqdm

from data.text.tokenizer import Tokenizer
from lrnn.evaluate.likelihood import Continuation, score_continuations
from lrnn.models import LanguageModel
from lrnn.models.decoding import Precision, Sampling, continue_prompts
from lrnn.runtime.errors import ConfigError

MAX_GEN_TOKS = 256  # new tokens of a generated text where its task names no number
# names under which the harness and its tasks give that number, the first that is there counts
NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class Request(Protocol):
    """A request of the harness, lm_eval.api.instance.Instance."""

    @property
    def args(self) -> tuple[Any, ...]:
        """What is asked, as in the table above."""


class Requests:
    """A model that answers requests."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        batch_size: int = 64,
        max_length: int | None = 2048,
        precision: Precision = nullcontext,
    ):
        """
        Args:
            model: Model in evaluation mode.
            tokenizer: Tokenizer that it was trained with.
            batch_size: Number of rows that the model reads, or continues, together.
            max_length: Most tokens of a text that the model sees at once. Longer texts are scored in windows of this
                length, and longer contexts lose their beginning. None for any length: the state carries all of it.
            precision: Makes the context in which the model is called.
        """
        super().__init__()
        self.language_model = model
        self.pieces = tokenizer
        self.rows = batch_size
        self.longest = max_length
        self.precision = precision

    def loglikelihood(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-likelihood in nats, whether all tokens are the likeliest) of each (context, continuation)."""
        pairs = [self._window(*self._pair(*request.args)) for request in requests]
        return self._score(pairs, "loglikelihood", disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood in nats of each whole text."""
        windows = [(i, one) for i, request in enumerate(requests) for one in self._windows(self._ids(request.args[0]))]
        totals = [0.0] * len(requests)
        scores = self._score([one for _, one in windows], "loglikelihood_rolling", disable_tqdm)
        for (i, _), (value, _) in zip(windows, scores, strict=True):
            totals[i] += value
        return totals

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """Return the text that follows each context, without the stop string that ended it."""
        contexts = [self._ids(request.args[0]) for request in requests]
        options = [_options(request.args[1]) for request in requests]
        texts: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda i: (repr(options[i]), len(contexts[i])))
        with tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm) as bar:
            while order:
                same = [i for i in order[: self.rows] if options[i] == options[order[0]]]  # those at the front
                order = order[len(same) :]
                found = self._continue([contexts[i] for i in same], same, *options[same[0]])
                texts.update(zip(same, found, strict=True))
                bar.update(len(same))
        return [texts[i] for i in range(len(requests))]

    def _score(self, pairs: Sequence[Continuation], name: str, quiet: bool) -> list[tuple[float, bool]]:
        with tqdm(total=len(pairs), desc=name, disable=quiet) as bar:
            scores = score_continuations(
                self.language_model, pairs, batch_size=self.rows, precision=self.precision, done=bar.update
            )
        return [(one.log_likelihood, one.is_greedy) for one in scores]

    def _continue(
        self,
        contexts: Sequence[Sequence[int]],
        streams: Sequence[int],
        stop: Sequence[str],
        tokens: int,
        sampling: Sampling,
    ) -> list[str]:
        eos = self.pieces.eos
        self._check_longest(tokens + 1, "a generated text and one of its context")
        kept = None if self.longest is None else self.longest - tokens
        prompts = [list(ids[-kept:] if kept else ids) or [eos] for ids in contexts]

        def ends(row: int, sampled: list[int]) -> bool:
            return sampled[-1] == eos or any(text in self.pieces.decode(sampled) for text in stop)

        sampled = continue_prompts(
            self.language_model, prompts, tokens, sampling, ends=ends, streams=streams, precision=self.precision
        )
        return [_before(stop, self.pieces.decode([i for i in ids if i != eos])) for ids in sampled]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.pieces.encode([text])[0].tolist()
        return ids

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode both as one text, cut where the tokens of the context end.

        Spaces at the end of the context belong to the continuation, as they do in tokens. A continuation that merges
        with the end of the context keeps the last token, where the harness's adapter fails: with none, its likelihood
        would be 1.
        """
        if not context:
            return [self.pieces.eos], self._ids(continuation)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        before, whole = self._ids(context), self._ids(context + continuation)
        cut = min(len(before), len(whole) - 1) if continuation else len(before)
        return before[:cut], whole[cut:]

    def _window(self, before: list[int], ids: list[int]) -> Continuation:
        """Leave out the beginning of a context that is too long."""
        if self.longest is not None:
            self._check_longest(len(ids), "a continuation")
            before = before[max(0, len(before) + len(ids) - self.longest - 1) :]
        return Continuation(before or [self.pieces.eos], ids)

    def _check_longest(self, least: int, of: str) -> None:
        """Refuse a max_length that would leave too little of a text, as the harness's adapter does."""
        if self.longest is not None and self.longest < least:
            raise ConfigError(f"max_length: must be at least {least}, the tokens of {of}, or null, got {self.longest}")

    def _windows(self, ids: list[int]) -> Iterator[Continuation]:
        """Yield the windows of a text: each token is scored once, after EOS or after the token before its window.

        The last window is as long as the others, so that its tokens have all the context that a window can hold.
        """
        size = self.longest or max(1, len(ids))
        for start in range(0, len(ids), size):
            end = min(start + size, len(ids))
            first = max(0, end - size - 1) if start else 0
            yield Continuation(ids[first:start] if start else [self.pieces.eos], ids[start:end])


def _options(given: dict[str, Any]) -> tuple[tuple[str, ...], int, Sampling]:
    """Return the stop strings, the largest number of tokens, and how they are drawn."""
    until = given.get("until") or []
    tokens = next((int(given[name]) for name in NEW_TOKENS if given.get(name) is not None), MAX_GEN_TOKS)
    temperature = float(given.get("temperature") or 0.0) if given.get("do_sample", True) else 0.0
    sampling = Sampling(temperature, given.get("top_k"), given.get("top_p") or 1.0)
    return tuple([until] if isinstance(until, str) else until), tokens, sampling


def _before(stop: Sequence[str], text: str) -> str:
    for one in stop:
        text = text.split(one)[0] if one else text
    return text
