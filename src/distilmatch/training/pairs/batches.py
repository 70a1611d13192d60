"""Batches of blocks: each distinct text of a batch goes through the encoder once, all its labelled pairs are scored.

Shape legend: p tuples of a batch; s sides; c labels; n distinct texts of a stream; t tokens; k kept tokens; h width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from distilmatch.data.tokenising import TokenIds, length_chunks, length_order, pad_batch
from distilmatch.errors import DataError
from distilmatch.models import DiPair
from distilmatch.pretrained.tokenizers import pad_id
from distilmatch.training.pairs.frozen import KeptOutputs
from distilmatch.types import TupleTable

Batch = dict[str, Any]


class BlockDataset(Dataset[np.ndarray]):
    """The blocks of a labelled table; item i is the (p,) row numbers of block i.

    Every row has a label of the teacher or, of a table without any, a gold label.
    """

    def __init__(self, table: TupleTable) -> None:
        labels, kind = (table.gold, "gold") if table.teacher is None else (table.teacher, "teacher")
        if labels is None or table.blocks is None:
            raise DataError(
                "training needs blocks and labels, a teacher's or gold ones: make them with label_transfer_set"
            )
        unlabelled = int(np.isnan(labels.reshape(len(table), -1)).any(axis=1).sum())
        if unlabelled:
            raise DataError(f"{unlabelled} of {len(table)} rows have no {kind} label: label them, or leave them out")
        self.table = table
        _, starts = np.unique(table.blocks, return_index=True)
        self.bounds = np.append(starts, len(table))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, block: int) -> np.ndarray:
        return np.arange(self.bounds[block], self.bounds[block + 1])


class _Collator:
    def __init__(self, table: TupleTable) -> None:
        self.table = table
        self.span = 0 if table.queries is None else int(table.queries.max()) + 1

    def __call__(self, blocks: Sequence[np.ndarray]) -> Batch:
        chosen = np.concatenate(blocks)
        table = self.table
        batch: Batch = {"texts": torch.from_numpy(table.rows[chosen])}
        if table.teacher is not None:
            batch["teacher"] = torch.from_numpy(table.teacher[chosen])
        if table.gold is not None:
            batch["gold"] = torch.from_numpy(table.gold[chosen])
        number = np.repeat(np.arange(len(blocks)), [len(rows) for rows in blocks])
        batch["blocks"] = torch.from_numpy(number)
        # A list ends with its block: what a row is compared with must not depend on which blocks a batch, an accumulated
        # step or a process happens to hold beside it.
        lists = number if table.queries is None else number * self.span + table.queries[chosen]
        batch["queries"] = torch.from_numpy(lists)
        return batch | self.inputs(table.rows[chosen])

    def inputs(self, rows: np.ndarray) -> Batch:
        """The model's part of a batch from (p, s) text numbers."""
        raise NotImplementedError


class TextCollator(_Collator):
    """Batches of token ids, texts sorted by length and cut into chunks with little padding."""

    def __init__(self, table: TupleTable, model: DiPair) -> None:
        super().__init__(table)
        self.side_streams = model.side_streams
        self.pad_ids: list[int] = []
        self.token_ids: list[TokenIds] = []
        self.lexical: list[torch.Tensor | None] = []
        for number, stream in enumerate(model.streams):
            tokenizer = model.tokenizers[stream.encoder]
            self.pad_ids.append(pad_id(tokenizer))
            self.token_ids.append(stream.token_ids(tokenizer, table.texts))
            alike = [other for other in range(number) if model.streams[other].encoder == stream.encoder]
            self.lexical.append(self.lexical[alike[0]] if alike else model.lexical_vectors(table.texts, number))

    def inputs(self, rows: np.ndarray) -> Batch:
        """`streams`, for each stream the tokenised chunks of its distinct texts, and `rows`, (p, s) into them."""
        local = np.empty_like(rows)
        streams = []
        for stream, ids in enumerate(self.token_ids):
            sides = [side for side, side_stream in enumerate(self.side_streams) if side_stream == stream]
            texts, inverse = np.unique(rows[:, sides], return_inverse=True)
            order, position = length_order(ids.lengths[texts])
            local[:, sides] = position[inverse.reshape(len(rows), len(sides))]
            ordered = [ids[text] for text in texts[order]]
            cuts = length_chunks(ids.lengths[texts[order]])
            batches = [pad_batch(ordered[cut], self.pad_ids[stream]) for cut in cuts]
            lexical = self.lexical[stream]
            if lexical is not None:
                for batch, cut in zip(batches, cuts, strict=True):
                    batch["lexical"] = lexical[texts[order][cut]]
            streams.append(batches)
        return {"streams": streams, "rows": torch.from_numpy(local)}


class CachedCollator(_Collator):
    """Batches of cached encoder outputs, for the stage in which the encoders are frozen."""

    def __init__(self, table: TupleTable, outputs: Sequence[KeptOutputs]) -> None:
        super().__init__(table)
        self.outputs = outputs

    def inputs(self, rows: np.ndarray) -> Batch:
        """`kept`, for each side (n, k, h) and (n, k) of its distinct texts, and `rows`, (p, s) into them."""
        local = np.empty_like(rows)
        kept = []
        for side, outputs in enumerate(self.outputs):
            texts, local[:, side] = np.unique(rows[:, side], return_inverse=True)
            kept.append(outputs.take(texts))
        return {"kept": kept, "rows": torch.from_numpy(local)}
