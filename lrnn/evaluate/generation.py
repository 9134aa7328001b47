"""Continue texts side by side, up to a stop string or the end of the document.

generate_texts(model, tokenizer, ["def f(", "The answer is"], stop=["\\n\\n"])
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from data.text.tokenizer import Tokenizer
from lrnn.models import LanguageModel
from lrnn.models.decoding import GREEDY, NonFiniteLogitsError, Precision, Sampling, continue_prompts
from lrnn.runtime.errors import ConfigError

CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # the end of a text whose last token ends inside a character


def generate_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    tokens: int = 128,
    sampling: Sampling = GREEDY,
    *,
    stop: Sequence[str] = (),
    batch_size: int = 64,
    on_text: Callable[[int, str], None] | None = None,
    precision: Precision = nullcontext,
) -> list[str]:
    """Return the text that follows each prompt, without the stop string that ended it.

    Args:
        model: Model to decode with, in evaluation mode.
        tokenizer: Tokenizer that the model was trained with.
        prompts: Texts to continue, each the beginning of a document. A prompt may be empty.
        tokens: Largest number of tokens to add to a prompt.
        sampling: How tokens are drawn.
        stop: Strings that end a text.
        batch_size: Number of prompts that are decoded together.
        on_text: Function that is called with the number of a prompt and the text that was added to it, as soon as
            no stop string can begin in that text.
        precision: Makes the context in which the model is called (lrnn/models/decoding).

    Raises:
        ConfigError: if a prompt is not UTF-8, a stop string is empty, or a logit is not a finite number.
    """
    if "" in stop:
        raise ConfigError("stop: must not have an empty string")
    texts = [Continuation(tokenizer, prompt, stop) for prompt in prompts]
    for first in range(0, len(texts), batch_size):
        part = texts[first : first + batch_size]

        def ends(row: int, sampled: list[int], part: list[Continuation] = part, first: int = first) -> bool:
            added = part[row].add(sampled[-1])
            if on_text is not None and added:
                on_text(first + row, added)
            return part[row].ended

        def allowed(row: int, sampled: list[int], part: list[Continuation] = part) -> Tensor | None:
            return tokens_that_end_the_prompt(tokenizer, part[row].prompt_ids, part[row].prompt, sampled)

        try:
            continue_prompts(
                model,
                [[tokenizer.eos, *text.prompt_ids] for text in part],  # a document begins after the end of another
                tokens,
                sampling,
                ends=ends,
                allowed=allowed,
                streams=range(first, first + len(part)),
                precision=precision,
            )
        except NonFiniteLogitsError as error:
            raise ConfigError(f"checkpoint: {error}") from error
        for row, text in enumerate(part):
            if (rest := text.finish()) and on_text is not None:
                on_text(first + row, rest)
    return [text.text for text in texts]


class Continuation:
    """A text that grows by tokens.

    Only the last few tokens are decoded for each new one: from where the text was last known to be whole.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, stop: Sequence[str] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.prompt_ids, self.prompt = encode_prompt(tokenizer, prompt)
        self.ended = False
        self.text = ""  # that is certain: no stop string begins in it
        self._pending = ""  # decoded text in which a stop string may begin
        self._ids = list(self.prompt_ids)
        self._whole = 0  # ids before this one are decoded, and end with a whole character
        self._anchor = 0  # an earlier such place, from which new ids are decoded: a text's first token looks different
        self._skip = len(self.prompt)  # characters of the prompt that the ids have not yet repeated
        self._take(self.tokenizer.decode(self._ids))

    def add(self, token: int) -> str:
        """Add a token. Return the text that has become certain."""
        if token == self.tokenizer.eos:
            self.ended = True
            return self._release(len(self._pending))
        self._ids.append(token)
        before = self.tokenizer.decode(self._ids[self._anchor : self._whole])
        after = self.tokenizer.decode(self._ids[self._anchor :])
        if after.endswith(CUT_CHARACTER):
            return ""
        return self._take(after[len(before) :])

    def finish(self) -> str:
        """End the text. Return what had not been certain; the beginning of a character is left out."""
        self.ended = True
        return self._release(len(self._pending))

    def _take(self, new: str) -> str:
        self._anchor, self._whole = self._whole, len(self._ids)
        repeated = min(self._skip, len(new))
        self._skip -= repeated
        self._pending += new[repeated:]
        found = [(at + len(stop), at) for stop in self.stop if (at := self._pending.find(stop)) >= 0]
        if found:  # the string that is complete first ends the text, however the text is cut into tokens
            self.ended = True
            _, begin = min(found)
            self._pending = self._pending[:begin]
            return self._release(len(self._pending))
        return self._release(len(self._pending) - max(map(self._begun, self.stop), default=0))

    def _begun(self, stop: str) -> int:
        """Return the number of characters of a stop string that the text ends with."""
        return next((n for n in range(len(stop) - 1, 0, -1) if self._pending.endswith(stop[:n])), 0)

    def _release(self, characters: int) -> str:
        certain, self._pending = self._pending[:characters], self._pending[characters:]
        self.text += certain
        return certain


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> tuple[list[int], str]:
    """Encode a prompt without the spaces at its end. Return its ids, and the whole prompt as they are decoded.

    A space belongs to the token of the next word: "def f" is encoded as [_def, _f], where _ stands for the space. If
    "def " were encoded as [_def, _], the next _f would add a second space.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("prompt: is not UTF-8") from error
    text = tokenizer.decode(tokenizer.encode([prompt])[0].tolist())
    return tokenizer.encode([text.rstrip(" ")])[0].tolist(), text


def tokens_that_end_the_prompt(tokenizer: Tokenizer, ids: list[int], text: str, sampled: list[int]) -> Tensor | None:
    """Return the tokens that may follow ids + sampled so that the whole begins with `text`: (vocabulary,), a mask.

    Returns None if all may: because `text` is complete, or because the tokenizer has no token for the spaces that are
    still missing.
    """
    missing = len(text) - len(tokenizer.decode(ids + sampled))
    return tokens_of_spaces(tokenizer, missing, not ids + sampled) if missing > 0 else None


@lru_cache
def tokens_of_spaces(tokenizer: Tokenizer, count: int, first: bool) -> Tensor | None:
    """Return the tokens that begin with `count` spaces, or consist of fewer: (vocabulary,), a mask; None if none do.

    `first` says that the token begins a text. There, a token of sentencepiece has one space more than it adds.
    """
    before = "" if first else "a"
    ids = tokenizer.encode([before])[0].tolist()
    texts = [tokenizer.decode([*ids, token]) for token in range(tokenizer.vocab_size)]
    spaced = [i for i, text in enumerate(texts) if text[len(before) :][:count].strip(" ") == "" and text != before]
    # without tokens that no text is encoded to, such as that for an unknown character
    encoded = tokenizer.encode([texts[i] for i in spaced])
    reachable = [i for i, found in zip(spaced, encoded, strict=True) if i in found[-1:]]
    if first:  # a first token may consist of that one space alone
        reachable += tokenizer.encode([" a"])[0][:1].tolist()
    mask = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
    mask[reachable] = True
    return mask if reachable else None
