"""Language modelling on token shards (`python -m data.prepare`), FineWeb's or any other text's.

    tokens of a split   d d d d . e e e . f f f f f f . g g ...     ( . is EOS)
    row 0   inputs      d d d d
            labels        d d d .
    row 1   inputs              . e e e
            labels                e e e .

Rows of context + 1 tokens begin `context` tokens apart: every token is an input once an epoch, and every
one but the first a label. A tail shorter than a row is left out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from data.errors import DataError
from data.resumable import Batch, ResumableData
from data.text.permutation import Permutation
from data.text.shards import SPLITS, Manifest, TokenStream
from data.text.tokenizer import DEFAULT_TOKENIZER, tokenizer_sha256


class FineWeb(ResumableData):
    """Packed rows of a folder of shards, shuffled anew every epoch, the same for any number of ranks and workers."""

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
            shards: folder that `python -m data.prepare` has made.
            batch_size: rows a rank and step.
            context: tokens a model reads at once; a row holds one more, the last label.
            validation_rows: rows scored at each validation, the first of the validation split, or all if it has fewer.
            tokenizer: the one that the shards were made with; others are refused.
            verify: read all shards before the first step and compare their hashes; sizes are always compared.
            seed: of the order of the rows.
            num_workers: processes that read; 0 reads in the training process.
        """
        super().__init__(batch_size, seed, num_workers)
        for name, value in (("context", context), ("validation_rows", validation_rows)):
            if value < 1:
                raise ValueError(f"data.{name}: must be at least 1, got {value}")
        self.folder = Path(shards)
        self.context = context
        self.verify = verify
        self.manifest = Manifest.load(self.folder)
        if tokenizer_sha256(tokenizer) != self.manifest.tokenizer_sha256:
            raise DataError(
                f"data.tokenizer: {shards} was made with {self.manifest.tokenizer} "
                f"(sha256 {self.manifest.tokenizer_sha256[:8]}), not with {tokenizer}"
            )
        self.vocab_size = self.manifest.vocab_size
        self.train_tokens, self.validation_tokens = (
            TokenStream(self.folder, self.manifest.splits[split], self.manifest.dtype) for split in SPLITS
        )
        self.rows = max(0, len(self.train_tokens) - 1) // context  # an epoch
        self.validation_rows = min(validation_rows, max(0, len(self.validation_tokens) - 1) // context)
        self._check_rows(ranks=1)

    def prepare_data(self) -> None:
        if self.verify:
            self.manifest.verify(self.folder)

    def setup(self, stage: str) -> None:
        self._check_rows(self.trainer.world_size if self.trainer else 1)

    def _check_rows(self, ranks: int) -> None:
        for split, rows, needed in (
            ("training", self.rows, ranks * self.batch_size),
            ("validation", self.validation_rows, ranks),
        ):
            if rows < needed:
                raise DataError(
                    f"data.batch_size: {ranks} ranks of {self.batch_size} need {needed} {split} rows of "
                    f"{self.context} + 1 tokens, {self.folder} has {rows}"
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

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_ValidationBatches(self), batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "shards": self.manifest.digest, "context": self.context}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["shards"] != self.manifest.digest:
            raise ValueError(f"data.shards: the checkpoint was trained on others than those in {self.folder}")
        if state_dict["context"] != self.context:
            before = state_dict["context"]
            raise ValueError(f"data.context: the checkpoint was trained with {before}, got {self.context}")
        super().load_state_dict(state_dict)


class _ValidationBatches(IterableDataset):
    """This rank's share of the validation rows; all ranks have equally many, as sharded models need."""

    def __init__(self, data: FineWeb):
        self.data = data
        trainer = data.trainer
        self.rank, self.ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        rows = range(self.rank, data.validation_rows // self.ranks * self.ranks, self.ranks)
        for first in range(0, len(rows), data.batch_size):
            yield data._batch(data.validation_tokens, rows[first : first + data.batch_size])
