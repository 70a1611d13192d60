"""Batches of the embedding job: each text of a batch once, cut into chunks of like length, so that nothing is padded.

Shape legend: n texts or rows of a batch; u distinct texts of a batch; s texts of a row (2 for pairs, 3 or more for
triplets); d width of the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch.utils.data import Dataset, Sampler

from distilmatch.config.embeddings import LabelledKind
from distilmatch.data.tokenising import length_chunks, length_order, pad_batch
from distilmatch.errors import DataError, ModelError
from distilmatch.fingerprint import fingerprint, fingerprint_tokenizer
from distilmatch.types import TupleTable

Batch = dict[str, Any]
Features = list[dict[str, torch.Tensor]]


class StudentTokens:
    """How texts become what a student's first module takes; nothing of its weights.

    Args:
        student: begins with a transformer of text, or with a table of token embeddings.
        max_length: of the tokens of a text.

    Raises:
        ModelError: it begins with something else, or its tokenizer has no padding token.
    """

    def __init__(self, student: SentenceTransformer, max_length: int) -> None:
        first: Any = student[0]
        self.max_length = max_length
        self.is_static = isinstance(student[0], StaticEmbedding)
        if not self.is_static and not isinstance(student[0], Transformer):
            raise ModelError(f"a student that begins with {type(first).__name__} cannot be trained here")
        self.tokenizer: Any = first.tokenizer
        if not self.is_static:
            if self.tokenizer is None or self.tokenizer.pad_token_id is None:
                raise ModelError("the student's tokenizer has no padding token: set one and save the model again")
            self.pad_id = int(self.tokenizer.pad_token_id)

    @property
    def fingerprint(self) -> str:
        """What the token ids of a text depend on."""
        known = self.tokenizer.to_str() if self.is_static else fingerprint_tokenizer(self.tokenizer)
        return fingerprint(known, self.max_length, self.is_static)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, special tokens included where the student sees them."""
        if self.is_static:
            encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
            return [encoding.ids[: self.max_length] for encoding in encoded]
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, padding=False, return_attention_mask=False
        )
        return encoded["input_ids"]  # type: ignore[no-any-return]

    def features(self, ids: Sequence[np.ndarray]) -> tuple[Features, np.ndarray]:
        """Chunks of texts of like length, and (u,) the place of each text in all of them."""
        if self.is_static:
            starts = np.cumsum([0, *(len(text) for text in ids[:-1])])
            flat = np.concatenate(ids).astype(np.int64)
            return [{"input_ids": torch.from_numpy(flat), "offsets": torch.from_numpy(starts)}], np.arange(len(ids))
        lengths = np.array([len(text) for text in ids])
        order, restore = length_order(lengths)
        cuts = length_chunks(lengths[order])
        return [pad_batch([ids[i] for i in order[cut]], self.pad_id) for cut in cuts], restore


class Numbers(Dataset[int]):
    """A dataset whose item i is i: what a row is, its collator knows."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


class DistilCollator:
    """Batches of stage 1: `chunks` and `restore` for the student, `teacher` (n, d) float32 and `ids` (n,) int64.

    Args:
        tokens: of the student.
        token_ids: of each text of the corpus.
        embeddings: (texts, d), the teacher's, in memory or mapped.
    """

    def __init__(self, tokens: StudentTokens, token_ids: Sequence[np.ndarray], embeddings: np.ndarray) -> None:
        if len(token_ids) != len(embeddings):
            raise DataError(f"{len(token_ids)} texts and {len(embeddings)} embeddings of the teacher: make them anew")
        self.tokens, self.token_ids, self.embeddings = tokens, token_ids, embeddings

    def __call__(self, numbers: Sequence[int]) -> Batch:
        """The batch of the texts of these numbers."""
        chunks, restore = self.tokens.features([self.token_ids[i] for i in numbers])
        teacher = np.asarray(self.embeddings[np.asarray(numbers)], dtype=np.float32)
        return {
            "chunks": chunks,
            "restore": torch.from_numpy(restore),
            "teacher": torch.from_numpy(teacher),
            "ids": torch.tensor(numbers),
        }


class LabelledTables:
    """The tables of stage 2 in one numbering: rows of the first table, then of the second, ...

    Args:
        tables, kinds: what each is; scored ones have scores.
        score_ranges: the lowest and highest score of each.
    """

    def __init__(
        self,
        tables: Sequence[TupleTable],
        kinds: Sequence[LabelledKind],
        score_ranges: Sequence[tuple[float, float]],
    ) -> None:
        self.tables, self.kinds, self.score_ranges = tuple(tables), tuple(kinds), tuple(score_ranges)
        for table, kind in zip(self.tables, self.kinds, strict=True):
            if kind == "scored" and (table.gold is None or np.isnan(table.gold).any()):
                raise DataError("scored pairs need a score in every row: leave those without one out")
        self.starts = np.concatenate([[0], np.cumsum([len(table) for table in self.tables])])

    def __len__(self) -> int:
        return int(self.starts[-1])


def prompted(table: TupleTable, prompts: Sequence[str]) -> TupleTable:
    """The same rows with a prompt before each text, one prompt a side; a text on two sides is two then."""
    sides = len(table.side_names)
    used, rows = np.unique(table.rows * sides + np.arange(sides), return_inverse=True)
    texts = [prompts[number % sides] + table.texts[number // sides] for number in used.tolist()]
    return replace(table, texts=texts, rows=rows.reshape(table.rows.shape))


class TableSampler(Sampler[int]):
    """Row numbers in blocks of one table each, rows and blocks shuffled; a table's last block is filled up from it.

    Args:
        starts: (tables + 1,) where each table's rows begin.
        block: rows of a batch of all processes together.
    """

    def __init__(self, starts: np.ndarray, block: int, seed: int = 0) -> None:
        self.starts, self.block, self.seed, self.epoch = starts, block, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int(np.sum(-(-np.diff(self.starts) // self.block)) * self.block)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        blocks = []
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            rows = rng.permutation(np.arange(start, end))
            blocks += list(np.resize(rows, (-(-len(rows) // self.block), self.block)))
        for number in rng.permutation(len(blocks)):
            yield from blocks[number].tolist()


class ContrastiveCollator:
    """Batches of stage 2, of one table each: `chunks` and `restore` (u,) for the student, `rows` (n, s) into those
    texts, `texts` (n, s) which texts of the table they are, `table` its number, `scores` (n,) from 0 to 1 where scored.
    """

    def __init__(self, tokens: StudentTokens, tables: LabelledTables) -> None:
        self.tokens, self.tables = tokens, tables
        self.token_ids = [
            [np.asarray(ids, dtype=np.int32) for ids in tokens.ids(list(table.texts))] for table in tables.tables
        ]

    def __call__(self, numbers: Sequence[int]) -> Batch:
        """The batch of the rows of these numbers, all of one table."""
        starts = self.tables.starts
        number = int(np.searchsorted(starts, numbers[0], side="right")) - 1
        table = self.tables.tables[number]
        chosen = np.asarray(numbers) - starts[number]
        assert chosen.min() >= 0 and chosen.max() < len(table), "a batch has rows of one table"
        rows = table.rows[chosen]
        texts, local = np.unique(rows, return_inverse=True)
        chunks, restore = self.tokens.features([self.token_ids[number][text] for text in texts])
        batch: Batch = {
            "chunks": chunks,
            "restore": torch.from_numpy(restore),
            "rows": torch.from_numpy(local.reshape(rows.shape)),
            "texts": torch.from_numpy(rows),
            "table": number,
        }
        if self.tables.kinds[number] == "scored":
            assert table.gold is not None
            low, high = self.tables.score_ranges[number]
            batch["scores"] = torch.from_numpy(((table.gold[chosen] - low) / (high - low)).astype(np.float32))
        return batch
