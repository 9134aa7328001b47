"""State tracking in text as a data module: rows of training documents, and evaluation sequences of any length.

a training row      . d d d d d . e e e e e e . f f f        documents packed, the last one cut; . is EOS
an evaluation one   . d d d d d d d d d d a                  a document of the test split
    its labels        - - - - - - - - - - a                  the answer is scored, and nothing else
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from data.curriculum import EVALUATION_OPTIONS, Curriculum, Stage, check_evaluation, check_lengths
from data.errors import options_of_data
from data.resumable import IGNORE, Batch, ResumableData, score_first, share
from data.state_tracking.documents import FAMILIES, Document, make_document, training_document
from data.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_sha256

TOKENIZER = "data/state_tracking/tokenizer.model"  # make_tokenizer.py has trained it
DOCUMENTS_A_ROW = 2**20  # that a row can number
ENCODED = 4  # documents that a row encodes at once


class EncodedQuestion(NamedTuple):
    """A document as tokens: those that all choices begin with, those of each choice after them, the right choice."""

    family: str
    length: int
    prefix: list[int]
    choices: list[list[int]]
    answer: int


def encode_question(tokenizer: Tokenizer, document: Document) -> EncodedQuestion:
    """Encode a document's prompt with each of its choices. The prefix begins with EOS, as a document does in training.

    A text and its answer are encoded as one, since a tokenizer may merge the end of one with the beginning of the
    other.
    """
    texts = [document.prompt + choice for choice in document.choices]
    ids = [[tokenizer.eos, *encoded.tolist()] for encoded in tokenizer.encode(texts)]
    shared = 0
    while len({tuple(encoded[: shared + 1]) for encoded in ids}) == 1:
        shared += 1
    shared = min(shared, min(map(len, ids)) - 1)  # every choice keeps a token
    choices = [encoded[shared:] for encoded in ids]
    return EncodedQuestion(document.family, document.length, ids[0][:shared], choices, document.answer)


class StateTrackingText(ResumableData):
    """Stories and code about things that change places (data/state_tracking).

    A length counts operations, and training documents have their states told here and there. `chance` is the accuracy
    of a uniform guess among the choices. The accuracy of the labels counts an answer as right if it is the likeliest of
    all tokens; `python -m lrnn.evaluate state_tracking` compares the choices.
    """

    min_length = 1
    # the file of the tokenizer may move; its content is compared
    changeable_options = ResumableData.changeable_options | EVALUATION_OPTIONS | {"tokenizer"}

    def __init__(
        self,
        families: list[str] | None = None,
        train_lengths: tuple[int, int] = (1, 16),
        test_lengths: tuple[int, int] = (17, 64),
        batch_size: int = 32,
        context: int = 512,
        training_labels: Literal["every_token", "answers"] = "every_token",
        validation_samples: int = 512,
        test_samples: int = 1024,
        tokenizer: str = TOKENIZER,
        seed: int = 0,
        evaluation_seed: int = 2411,
        num_workers: int = 2,
        curriculum: list[Stage] | None = None,
    ):
        """
        Args:
            families: Families of documents, of variables, counters, recall, repl, negations and boards; all when
                absent.
            train_lengths: Fewest and most operations in a training document. Short ones are common: the
                logarithm of the length is uniform.
            test_lengths: Fewest and most operations in a document of the test set.
            batch_size: Number of rows in a training batch of one rank.
            context: Number of tokens that the model reads from a row.
            training_labels: Tokens that are scored in training: all, as in language modelling, or those of the answers.
                In a row that is too short for an answer, all are.
            validation_samples: Number of documents in a validation set.
            test_samples: Number of documents in the test set.
            tokenizer: Tokenizer; the small one of this data when absent.
            seed: Seed of the training documents, in [0, 2^20); `python -m lrnn.fit` sets it to seed_everything.
            evaluation_seed: Seed of the validation and test documents, in [0, 2^20).
            num_workers: Number of processes that make training rows; 0 makes them in the training process.
            curriculum: Stages of other lengths with which training begins, such as
                [{lengths: [1, 2], samples: 16000}]; after them come train_lengths. A sample is a row.

        Raises:
            DataError: if the tokenizer can't be loaded.
            ValueError: if an option is out of its range.
        """
        super().__init__(batch_size, seed, num_workers)
        sizes = {"context": context, "validation_samples": validation_samples, "test_samples": test_samples}
        check_evaluation(evaluation_seed, sizes)
        check_lengths(1, train_lengths=train_lengths, test_lengths=test_lengths)
        self.curriculum = Curriculum(curriculum, train_lengths, 1)
        with options_of_data():
            self.families = check_families(families)
            self.pieces = load_tokenizer(tokenizer)
        self.train_lengths, self.test_lengths = train_lengths, test_lengths
        self.context = self._fixed_options["context"] = context
        self.training_labels = training_labels
        self.equal_labels = training_labels == "every_token"
        self.validation_samples, self.test_samples = validation_samples, test_samples
        self.evaluation_seed = evaluation_seed
        self._fixed_options["tokenizer"] = tokenizer_sha256(tokenizer)
        self.vocab_size = self.pieces.vocab_size
        self.chance = sum(FAMILIES[family].chance for family in self.families) / len(self.families)

    def training_batch(self, samples: range, device: torch.device) -> Batch:
        rows = torch.tensor([self._row(sample) for sample in samples])  # (B, 2, context + 1)
        return Batch(rows[:, 0, :-1], rows[:, 1, 1:])

    def _row(self, sample: int) -> tuple[list[int], list[int]]:
        """Return the tokens of a row, and the same as labels, IGNORE where a token is not scored."""
        tokens: list[int] = []
        labels: list[int] = []
        number = sample * DOCUMENTS_A_ROW
        lengths = self.curriculum.at(sample)
        while len(tokens) <= self.context:
            documents = [training_document(self.seed, number + i, self.families, lengths) for i in range(ENCODED)]
            encoded = self.pieces.encode([document.text for document in documents])
            for document, ids in zip(documents, encoded, strict=True):
                tokens += [self.pieces.eos, *ids.tolist()]
                labels += tokens[-len(ids) - 1 :] if self.equal_labels else self._answers(document, ids.tolist())
            number += ENCODED
        tokens, labels = tokens[: self.context + 1], labels[: self.context + 1]
        has_answer = any(label != IGNORE for label in labels[1:])
        return tokens, labels if has_answer else tokens  # a loss over no label would not be a number

    def _answers(self, document: Document, ids: list[int]) -> list[int]:
        """Return the labels of EOS and of the document's tokens, of which only those of answers are scored."""
        ends = [document.text[:end] for span in document.answers for end in span]
        positions = iter([len(part) for part in self.pieces.encode(ends)])
        labels = [IGNORE] * (1 + len(ids))
        for first, end in zip(positions, positions, strict=True):
            labels[1 + first : 1 + end] = ids[first:end]
        return labels

    def questions(self, lengths: Sequence[int], samples: int) -> list[EncodedQuestion]:
        """Return `samples` documents of the test split for each family and each length, encoded."""
        return [
            encode_question(self.pieces, make_document(self.evaluation_seed, "test", family, length, number))
            for family in self.families
            for length in lengths
            for number in range(samples)
        ]

    def evaluation_batches(
        self, shortest: int, longest: int, samples: int, validation: bool = False, tokens: int = 2**17
    ) -> Iterator[Batch]:
        """Yield a fixed set of documents with lengths in [shortest, longest], sorted by their number of tokens.

        A batch has at most `tokens` tokens, or one document if that is longer. The families take turns.

        Raises:
            ValueError: if `shortest` is below 1.
        """
        if shortest < 1:
            raise ValueError(f"lengths: {type(self).__name__} needs at least 1, got {shortest}")
        draw = Random(f"{self.evaluation_seed} lengths {shortest} {longest} {validation}")
        split = "validation" if validation else "test"
        rows = []
        for number in range(samples):
            family, length = self.families[number % len(self.families)], draw.randint(shortest, longest)
            document = make_document(self.evaluation_seed, split, family, length, number)  # type: ignore[arg-type]
            rows.append(_labelled(encode_question(self.pieces, document)))
        rows.sort(key=lambda row: len(row[0]), reverse=True)
        while rows:
            count = max(1, tokens // len(rows[0][0]))
            yield _padded(rows[:count])
            rows = rows[count:]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_ValidationBatches(self), batch_size=None)


def check_families(families: Sequence[str] | None) -> tuple[str, ...]:
    """Return the families, all when absent.

    Raises:
        ValueError: if there is none, if one occurs twice, or if one is unknown.
    """
    chosen = tuple(FAMILIES) if families is None else tuple(families)
    if not chosen or len({*chosen}) < len(chosen) or not {*chosen} <= FAMILIES.keys():
        raise ValueError(f"families: must be different ones of {', '.join(FAMILIES)}, got {list(chosen)}")
    return chosen


def _labelled(question: EncodedQuestion) -> tuple[list[int], list[int]]:
    """Return the tokens that are read, and the labels."""
    answer = question.choices[question.answer]
    return [*question.prefix, *answer[:-1]], [*[IGNORE] * (len(question.prefix) - 1), *answer]


def _padded(rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    longest = max(len(inputs) for inputs, _ in rows)

    def pad(values: Sequence[list[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in values])

    return Batch(pad([inputs for inputs, _ in rows], 0), pad([labels for _, labels in rows], IGNORE))


class _ValidationBatches(IterableDataset):
    """This rank's share of the validation documents of the training lengths."""

    def __init__(self, data: StateTrackingText):
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        for batch in data.evaluation_batches(*data.train_lengths, data.validation_samples, True, tokens=2**15):
            rows, scored = share(range(len(batch.inputs)), *data.rank_and_ranks)
            yield score_first(Batch(*(field[rows] for field in batch)), scored)
