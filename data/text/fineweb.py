"""Language modelling on token shards of any text (`python -m data.prepare` makes them).

    tokens of a split   d d d d . e e e . f f f f f f . g g ...     ( . is EOS)
    row 0   inputs      d d d d
            labels        d d d .
    row 1   inputs              . e e e
            labels                e e e .

A row has context + 1 tokens, and rows start `context` tokens apart. In an epoch, every token is an input once, and
every token but the first is a label once. The tail that is shorter than a row is left out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from data.errors import DataError, options_of_data
from data.resumable import Batch, ResumableData, score_first, share
from data.text.permutation import Permutation
from data.text.shards import SPLITS, Manifest, TokenStream
from data.text.tokenizer import DEFAULT_TOKENIZER, tokenizer_sha256


class FineWeb(ResumableData):
    """Packed rows from a folder of shards, shuffled anew every epoch.

    The order of the rows depends on the seed only, not on the number of ranks or workers.
    """

    equal_labels = True
    changeable_options = ResumableData.changeable_options | {"shards", "tokenizer", "validation_rows", "verify"}

    def __init__(
        self,
        shards: str,
        batch_size: int = 16,
        context: int = 2048,
        validation_rows: int = 1024,
        tokenizer: str = DEFAULT_TOKENIZER,
        verify: bool = True,
        seed: int = 0,
        num_workers: int = 1,
    ):
        """
        Args:
            shards: Folder of token shards, made by `python -m data.prepare`.
            batch_size: Number of rows in a training batch of one rank.
            context: Number of tokens that the model reads from a row. A row has one token more: the last label.
            validation_rows: Number of rows in the validation set: the first rows of the validation split, or all of
                them if it has fewer.
            tokenizer: Tokenizer that the shards were made with. Any other is refused.
            verify: Whether to read all shards before the first step and compare their hashes. Sizes are always
                compared.
            seed: Seed of the order of the rows, in [0, 2^20); `python -m lrnn.fit` sets it to seed_everything.
            num_workers: Number of processes that read rows; 0 reads in the training process.

        Raises:
            DataError: if shards are missing, damaged, from another tokenizer, or hold too few rows.
            ValueError: if an option is out of its range.
        """
        super().__init__(batch_size, seed, num_workers)
        for name, value in (("context", context), ("validation_rows", validation_rows)):
            if value < 1:
                raise ValueError(f"data.{name}: must be at least 1, got {value}")
        self.folder = Path(shards)
        self.context = self._fixed_options["context"] = context
        self.verify = verify
        self.manifest = Manifest.load(self.folder)
        with options_of_data():
            found = tokenizer_sha256(tokenizer)
        if found != self.manifest.tokenizer_sha256:
            raise DataError(
                f"data.tokenizer: {shards} was made with {self.manifest.tokenizer} "
                f"(sha256 {self.manifest.tokenizer_sha256[:8]}), not with {tokenizer}"
            )
        self.vocab_size = self.manifest.vocab_size
        self.train_tokens, self.validation_tokens = (
            TokenStream(self.folder, self.manifest.splits[split], self.manifest.dtype) for split in SPLITS
        )
        self.rows = max(0, len(self.train_tokens) - 1) // context  # in an epoch
        self.validation_rows = min(validation_rows, max(0, len(self.validation_tokens) - 1) // context)
        self._check_rows(ranks=1)

    def prepare_data(self) -> None:
        if self.verify:
            self.manifest.verify(self.folder)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._check_rows(self.rank_and_ranks[1])

    def _check_rows(self, ranks: int) -> None:
        for split, rows in (("training", self.rows), ("validation", self.validation_rows)):
            if not rows:
                raise DataError(
                    f"data.context: the {split} split of {self.folder} has no row of {self.context} + 1 tokens; "
                    "choose a shorter context, or prepare a larger split"
                )
        if self.rows < ranks * self.batch_size:
            raise DataError(
                f"data.batch_size: must be at most {self.rows // ranks} with {ranks} ranks, as {self.folder} has "
                f"{self.rows} training rows of {self.context} + 1 tokens, got {self.batch_size}"
            )

    def training_batch(self, samples: range, device: torch.device) -> Batch:
        rows = []
        for sample in samples:
            epoch, position = divmod(sample, self.rows)
            rows.append(self._order(epoch)(position))
        return self._batch(self.train_tokens, rows)

    def _order(self, epoch: int) -> Permutation:
        return Permutation(self.rows, self.seed, epoch)

    def _batch(self, tokens: TokenStream, rows: Sequence[int]) -> Batch:
        ids = torch.from_numpy(tokens.read([row * self.context for row in rows], self.context + 1).astype("int64"))
        return Batch(ids[:, :-1], ids[:, 1:])

    def validation_sequences(self, length: int, most: int) -> Tensor:
        """Return long sequences of the validation split, as `lrnn.evaluate.perplexity_scoring` reads them.

        Args:
            length: Tokens that the model reads from a sequence.
            most: Largest number of sequences.

        Returns:
            ids (N, length + 1), int64: the first sequences of the split, which start `length` tokens apart.

        Raises:
            DataError: if the validation split has no sequence of that length.
        """
        rows = min(most, max(0, len(self.validation_tokens) - 1) // length)
        if rows < 1:
            raise DataError(
                f"data.shards: the validation split of {self.folder} has {len(self.validation_tokens):,} tokens, "
                f"too few for a sequence of {length:,} + 1; choose shorter lengths, or prepare a larger split"
            )
        starts = [row * length for row in range(rows)]
        return torch.from_numpy(self.validation_tokens.read(starts, length + 1).astype("int64"))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_ValidationBatches(self), batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "shards": self.manifest.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["shards"] != self.manifest.digest:
            raise ValueError(f"data.shards: the checkpoint was trained on other shards than those in {self.folder}")
        super().load_state_dict(state_dict)


class _ValidationBatches(IterableDataset):
    """This rank's share of the validation rows."""

    def __init__(self, data: FineWeb):
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        rank, ranks = data.rank_and_ranks
        rows = range(data.validation_rows)
        for first in range(0, len(rows), data.batch_size * ranks):
            own, scored = share(rows[first : first + data.batch_size * ranks], rank, ranks)
            yield score_first(data._batch(data.validation_tokens, own), scored)
