"""The GPU's kernel: texts packed and programs started by `triton_heads`, the programs in `triton_programs`.

Scores leave a program in blocks of bounded size and go to the same `BestRows` as PyTorch's. Triton is imported when
the first program starts: it comes with the CUDA builds of PyTorch, and nothing else needs it.

Shape legend: n, m texts of the two sides; p pairs; c labels.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import numpy as np
import torch

from distilmatch.engine.finite import NotFinite, check_folded
from distilmatch.engine.heads.base import FoldedTexts
from distilmatch.engine.heads.feed_forward import FoldedFeedForward
from distilmatch.engine.heads.kinds import fold_head
from distilmatch.engine.heads.transformer import FoldedTransformer
from distilmatch.engine.kernels.forms import TorchTexts
from distilmatch.engine.kernels.torch import TorchKernel
from distilmatch.engine.kernels.triton_heads import (
    Programs,
    SumsPrograms,
    Tile,
    TransformerPrograms,
    power_of_two,
    tiles_for,
    two_blocks,
)
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

MOST_WIDTH = 1024  # a tile's rows stay in the registers
MOST_COMPARED_TOKENS = 128  # of a side with largest similarities: a pair's are one block
MOST_LABELS = 16  # of a feed-forward head, whose sums stay in the registers
_LOGITS_A_BLOCK = 2**24
_TEXTS_A_BLOCK = 2**17  # of either side, so that 32 bits number what is laid side by side
_PAIRS_A_CALL = 2**22
_TEXTS_FOLDED = 2**13  # at a time: folding needs several times what is kept
_FEWEST_PAIRS = 32  # of the tile that asks for least
_SHARED_SPARE = 2**12  # of a multiprocessor's shared memory, for sums that go through it


def why_not_triton(model: DiPair) -> str | None:
    """Why the Triton programs cannot score this model where it is, or None where they can."""
    here = _why_not_on(model.device)
    if here is not None:
        return here
    student = model.student
    if student.sides != 2:
        return f"the model has {student.sides} sides, the Triton programs do two"
    folded = fold_head(model.head, model.classifier)
    if isinstance(folded, FoldedTransformer):
        if len(folded.layers) != 1:
            return f"the head has {len(folded.layers)} layers, the Triton programs do one"
        width, head = student.vector_width, student.vector_width // student.attention_heads
        if width > MOST_WIDTH:
            return f"a width of {width} is more than the {MOST_WIDTH} that the Triton programs do"
        room = 2 * (two_blocks(width)[0] + _FEWEST_PAIRS) * power_of_two(head)  # weights, and what is multiplied
        if room > _shared_memory(model.device) - _SHARED_SPARE:
            return f"this GPU's multiprocessors have no room for the weights of an attention head of width {head}"
        if student.head_maxsim and max(student.kept_tokens) > MOST_COMPARED_TOKENS:
            return f"more than {MOST_COMPARED_TOKENS} kept tokens are compared"
        return None
    if isinstance(folded, FoldedFeedForward):
        if student.head_layers != 1:
            return f"the feed-forward head has {student.head_layers} hidden layers, the Triton programs do one"
        if folded.products is not None:
            return "the feed-forward head compares texts, the Triton programs score its hidden numbers alone"
        labels = model.task.num_labels
        return f"more than {MOST_LABELS} labels of a feed-forward head" if labels > MOST_LABELS else None
    return f"there is no Triton program for a {student.head} head"


def gpu_here() -> str | None:
    """What scores on this machine's GPU, a line for people; None without one."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda")
    reason = _why_not_on(device)
    return f"torch: on {gpu_name(device)}, {reason}" if reason else f"triton: bf16 on {gpu_name(device)}"


def gpu_name(device: torch.device) -> str:
    """The device's name; the interpreter's where programs run without a GPU, as in tests."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"


def _why_not_on(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; PyTorch's CUDA builds bring it, or: pip install 'distilmatch[gpu]'"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"the model is on {device}, the Triton programs need a GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{gpu_name(device)} does not multiply bf16 numbers (compute capability 8.0)"
    return None


def _shared_memory(device: torch.device) -> int:
    # Bytes that a program may have; where it is not known, what the smallest of the GPUs with bf16 has.
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return int(getattr(properties, "shared_memory_per_block_optin", 99 * 2**10))


class TritonKernel(TorchKernel):
    """One-layer transformer heads and feed-forward heads of two sides on a GPU: bf16 products, fp32 sums."""

    name = "triton"
    pairs_a_call = most_pairs_a_call = 2**30

    def __init__(
        self, model: DiPair, tiles: Sequence[Tile] | None = None, operands: torch.dtype = torch.bfloat16
    ) -> None:
        """Packs the head's weights.

        Args:
            tiles: of a transformer head, the first that the GPU has room for is used; None for those of its width.
            operands: of its products. The interpreter does fp32 exactly, a GPU rounds it (tf32).
        """
        reason = why_not_triton(model)
        assert reason is None, reason
        super().__init__(model)
        self.dtype = model.classifier.weight.dtype
        use_gelu = model.student.head_activation == "gelu"
        if isinstance(self.head, FoldedTransformer):
            tiles = tiles or tiles_for(model.student.vector_width)
            self.programs: Programs = TransformerPrograms(self.head, use_gelu, tiles, operands)
        else:
            self.programs = SumsPrograms(cast(FoldedFeedForward, self.head), use_gelu)

    def prepare(self, texts: TokenRepresentations, side: int) -> TorchTexts:
        """As `Kernel.prepare`."""
        packed: FoldedTexts = {}
        for start in range(0, len(texts), _TEXTS_FOLDED):
            block = texts[start : start + _TEXTS_FOLDED].to(self.device, self.dtype)
            folded = self.head.fold(block, side)
            try:
                check_folded(folded)
            except NotFinite as error:
                raise NotFinite(start + error.rows[0]) from None
            operands = self.programs.pack(folded, side)
            if not packed:
                packed = {name: tensor.new_empty((len(texts), *tensor.shape[1:])) for name, tensor in operands.items()}
            for name, tensor in operands.items():
                packed[name][start : start + len(block)] = tensor
        return TorchTexts(packed)

    def pairs(self, sides: Sequence[TorchTexts], rows: np.ndarray) -> np.ndarray:
        """As `Kernel.pairs`."""
        logits = np.empty((len(rows), self.labels), dtype=np.float32)
        for start in range(0, len(rows), _PAIRS_A_CALL):
            index = torch.from_numpy(np.ascontiguousarray(rows[start : start + _PAIRS_A_CALL])).to(self.device)
            logits[start : start + len(index)] = self.score_rows(sides, index).cpu().numpy()
        return logits

    def score_rows(self, sides: Sequence[TorchTexts], rows: torch.Tensor) -> torch.Tensor:
        """(p, c) fp32 logits on the device; `rows` is (p, 2) int64 there."""
        out = torch.empty((len(rows), self.labels), dtype=torch.float32, device=self.device)
        left, right = sides
        if len(rows):
            with self._at_home():
                self.programs.pairs(left.texts, right.texts, rows.contiguous(), out)
        return out

    def _blocks(self, left: TorchTexts, right: TorchTexts) -> Iterator[tuple[int, int, torch.Tensor]]:
        # Blocks as square as can be: what is kept of a row or column is merged once a block.
        most = _LOGITS_A_BLOCK // self.labels
        columns = min(len(right), max(math.isqrt(most), most // max(1, len(left))), _TEXTS_A_BLOCK)
        rows = min(len(left), max(1, most // max(1, columns)), _TEXTS_A_BLOCK)
        for column in range(0, len(right), columns):
            last_column = min(column + columns, len(right))
            rights = self.programs.part(right.texts, slice(column, last_column), 1)
            for row in range(0, len(left), rows):
                last_row = min(row + rows, len(left))
                lefts = self.programs.part(left.texts, slice(row, last_row), 0)
                shape = (last_row - row, last_column - column, self.labels)
                out = torch.empty(shape, dtype=torch.float32, device=self.device)
                with self._at_home():
                    self.programs.block(lefts, rights, out)
                yield row, column, out

    def _at_home(self) -> AbstractContextManager[object]:
        # Triton starts programs on the current device.
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
