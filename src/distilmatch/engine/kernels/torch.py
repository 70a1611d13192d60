"""The kernel of plain PyTorch: every head, every device, and the oracle of the others.

Shape legend: n, m texts of the two sides; p tuples; s sides; c labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from distilmatch.engine.finite import check_block, check_folded
from distilmatch.engine.heads.base import take
from distilmatch.engine.heads.kinds import fold_head, head_cost
from distilmatch.engine.kernels.forms import Form, TensorForm, TorchTexts
from distilmatch.engine.kernels.native_module import NativeBestRows, runs_native
from distilmatch.engine.ranking import BestRows, Ranking
from distilmatch.models import DiPair
from distilmatch.runtime import Precision, autocast
from distilmatch.types import TokenRepresentations

_FEWEST_PAIRS, _MOST_PAIRS = 64, 2**20  # of a block
_CPU_BLOCK = 2**24  # bytes of its largest tensor: from 2**25 on the memory of each is asked of the system anew
_GPU_SHARE = 0.125  # of its free memory, for a block
_MULTIPLIED = ("query", "key", "value", "similar", "tokens")  # what products read of a text
_COPIES = 4  # of both texts' operands, about what a pair needs on its way to its logits


class TorchKernel:
    """Folded heads on the model's device, in fp32 or with products in bf16."""

    name: str = "torch"
    pairs_a_call = most_pairs_a_call = 2**20
    skipped_pairs = 0

    def __init__(self, model: DiPair, precision: Precision = "fp32") -> None:
        """Folds the head's weights.

        Args:
            precision: "bf16" for products in bf16 with fp32 sums, residuals and norms, as "torch-bf16"; what products
                read of a text is kept in bf16.
        """
        self.head = fold_head(model.head, model.classifier)
        self.device, self.labels = model.device, model.task.num_labels
        self.precision = precision
        if precision == "bf16":
            self.name = "torch-bf16"
        self.cost = head_cost(model)
        self.pair_bytes = 4 * self.cost.widest
        self.form: Form = TensorForm(self.device)

    def prepare(self, texts: TokenRepresentations, side: int) -> TorchTexts:
        """As `Kernel.prepare`."""
        folded = self.head.fold(texts.to(self.device), side)
        check_folded(folded)
        if self.precision == "bf16":
            folded |= {name: folded[name].bfloat16() for name in _MULTIPLIED if name in folded}
        return TorchTexts(folded)

    def pairs(self, sides: Sequence[TorchTexts], rows: np.ndarray) -> np.ndarray:
        """As `Kernel.pairs`."""
        index = torch.from_numpy(rows).to(self.device)
        logits = np.empty((len(rows), self.labels), dtype=np.float32)
        step = self._pairs_at_once(sides)
        for start in range(0, len(rows), step):
            with autocast(self.precision, self.device):
                block = self.head.score([side.texts for side in sides], index[start : start + step])
            logits[start : start + len(block)] = block.cpu().numpy()
        return logits

    def best_rows(self, rows: int, k: int, first: int = 0) -> BestRows | NativeBestRows:
        """As `Kernel.best_rows`."""
        native = self.device.type == "cpu" and runs_native()
        return NativeBestRows(rows, k, first) if native else BestRows(rows, k, self.device, first)

    def top_k(
        self,
        left: TorchTexts,
        right: TorchTexts,
        ranking: Ranking,
        of_left: BestRows | NativeBestRows | None,
        of_right: BestRows | NativeBestRows | None,
        offsets: tuple[int, int],
    ) -> None:
        """As `Kernel.top_k`."""
        for row, column, logits in self._blocks(left, right):
            check_block(logits, offsets[0] + row, offsets[1] + column)
            scores = ranking(logits)
            if of_left is not None:
                of_left.add(offsets[0] + row, scores, offsets[1] + column)
            if of_right is not None:
                of_right.add(offsets[1] + column, scores.T, offsets[0] + row)

    def above(
        self, left: TorchTexts, right: TorchTexts, ranking: Ranking, threshold: float, offsets: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Kernel.above`."""
        rows, kept_scores = [np.empty((0, 2), dtype=np.int64)], [np.empty(0, dtype=np.float32)]
        for row, column, logits in self._blocks(left, right):
            check_block(logits, offsets[0] + row, offsets[1] + column)
            scores = ranking(logits)
            kept = scores > threshold
            places = kept.nonzero() + torch.tensor([offsets[0] + row, offsets[1] + column], device=self.device)
            rows.append(places.cpu().numpy())
            kept_scores.append(scores[kept].cpu().numpy())
        return np.concatenate(rows), np.concatenate(kept_scores)

    def _pairs_at_once(self, sides: Sequence[TorchTexts], gathered: bool = True) -> int:
        # A CPU wants blocks that its allocator keeps, a GPU as many pairs as its free memory has room for.
        operands = sum(side.nbytes // max(1, len(side)) for side in sides) if gathered else 2 * self.pair_bytes
        room = float(_CPU_BLOCK)
        if self.device.type == "cuda":
            room, operands = _GPU_SHARE * torch.cuda.mem_get_info(self.device)[0], _COPIES * operands
        return max(_FEWEST_PAIRS, min(_MOST_PAIRS, int(room / max(operands, self.pair_bytes))))

    def _blocks(self, left: TorchTexts, right: TorchTexts) -> Iterator[tuple[int, int, torch.Tensor]]:
        # First row, first column and (n, m, c) logits of blocks of at most so many pairs.
        pairs = self._pairs_at_once([left, right], gathered=self.cost.gathers)
        columns = min(len(right), max(512, math.isqrt(pairs)))
        rows = max(1, pairs // max(1, columns))
        for row in range(0, len(left), rows):
            lefts = take(left.texts, torch.arange(row, min(row + rows, len(left)), device=self.device))
            for column in range(0, len(right), columns):
                rights = take(right.texts, torch.arange(column, min(column + columns, len(right)), device=self.device))
                with autocast(self.precision, self.device):
                    logits = self.head.block(lefts, rights)
                yield row, column, logits
