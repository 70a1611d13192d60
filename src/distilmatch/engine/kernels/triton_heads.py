"""What the Triton programs read: weights packed once, texts as they come; and the programs started on them.

Shape legend: n, m texts of the two sides; p pairs; k kept tokens of a side; h attention heads of width e; d width;
f hidden width; c labels. A size with a prime is padded to what a program's blocks are made of.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn
from torch.nn.functional import pad

from distilmatch.engine.heads.base import FoldedTexts
from distilmatch.engine.heads.feed_forward import FoldedFeedForward
from distilmatch.engine.heads.transformer import FoldedTransformer

_LOG2_E = 1.4426950408889634
_FEWEST = 16  # the least that a side of `tl.dot` may be
_OPTIONS = {"enable_fp_fusion": True}  # Triton 3.10 no longer fuses products and sums unless told to


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How much a program does at a time.

    Attributes:
        pairs: whose rows stay in the registers from the attention to the logits.
        columns: of the attention, whole heads; of the hidden layer: `hidden`.
        warps, stages: Triton's, of a program and of the loop over the hidden layer.
    """

    pairs: int
    columns: int
    hidden: int
    warps: int
    stages: int


def tiles_for(width: int) -> tuple[Tile, ...]:
    """Tiles for a width, best first; later ones ask for less of a multiprocessor.

    A program reads all weights, `9 d^2` numbers, once for its pairs. With 128 pairs that is 128 operations a byte, with
    64 half as many, fewer than a large GPU's second cache feeds. What bounds the pairs is that their `pairs` x `width` fp32
    sums and bf16 inputs stay in a multiprocessor's registers: 128 at a width of 256, a few spilled at 384.
    """
    if width > 512:
        return (
            Tile(pairs=32, columns=64, hidden=32, warps=8, stages=2),
            Tile(pairs=16, columns=32, hidden=16, warps=4, stages=1),
        )
    large = (Tile(pairs=128, columns=64, hidden=32, warps=8, stages=3 if width <= 256 else 2),)
    return (
        *(large if width <= 384 else ()),
        Tile(pairs=64, columns=64, hidden=32, warps=4 if width <= 256 else 8, stages=2),
        Tile(pairs=32, columns=32, hidden=32, warps=4, stages=1),
    )


class Programs(Protocol):
    """The programs of one kind of head."""

    def pack(self, texts: FoldedTexts, side: int) -> FoldedTexts:
        """What a program reads of folded texts of `side`."""
        ...

    def pairs(self, left: FoldedTexts, right: FoldedTexts, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the (p, c) fp32 logits of pairs of packed texts; `rows` is (p, 2) int64."""
        ...

    def part(self, texts: FoldedTexts, rows: slice, side: int) -> FoldedTexts:
        """Some of the packed texts, as `block` takes them."""
        ...

    def block(self, left: FoldedTexts, right: FoldedTexts, out: torch.Tensor) -> None:
        """Writes the (n, m, c) fp32 logits of all against all of two parts."""
        ...


class TransformerPrograms:
    """The one-layer folded transformer head."""

    def __init__(
        self, folded: FoldedTransformer, use_gelu: bool, tiles: Sequence[Tile], operands: torch.dtype = torch.bfloat16
    ) -> None:
        layer = folded.layers[0]
        inner, outer = layer.attention_norm, layer.feed_forward_norm
        if layer.pre_norm:
            inner, outer = layer.feed_forward_norm, cast(nn.LayerNorm, folded.final_norm)
        width, heads = layer.query.in_features, layer.heads
        self.folded, self.tiles, self.operands = folded, list(tiles), operands
        self._choosing = threading.Lock()
        self.blocks = two_blocks(width)
        self.width = sum(self.blocks)  # d'
        self.head_width = max(_FEWEST, power_of_two(width // heads))  # e'
        group = min(power_of_two(heads), max(1, max(tile.columns for tile in tiles) // self.head_width))
        self.group, self.heads = group, _multiple(heads, group)  # h'
        expand, contract = cast(nn.Linear, layer.feed_forward[0]), cast(nn.Linear, layer.feed_forward[2])
        self.hidden = _multiple(expand.out_features, max(tile.hidden for tile in tiles))  # f'
        # The outer norm's weights go into the classifier's, so that a program normalises and reads in one pass.
        read = folded.read.double() * outer.weight.double()
        read_bias = folded.bias.double() + folded.read.double() @ outer.bias.double()
        output = layer.output.weight.T.unflatten(0, (heads, -1))  # (h, e, d)
        output = pad(output, (0, self.width - width, 0, self.head_width - width // heads, 0, self.heads - heads))
        of_width = (0, self.width - width)
        of_hidden = (0, self.hidden - expand.out_features)
        self.weights = {
            "output": self._operand(output.flatten(0, 1)),
            "inner_scale": _fp32(pad(inner.weight, of_width)),
            "inner_bias": _fp32(pad(inner.bias, of_width)),
            "expand": self._operand(pad(expand.weight.T, (*of_hidden, *of_width))),
            "expand_bias": _fp32(pad(expand.bias, of_hidden)),
            "contract": self._operand(pad(contract.weight.T, (*of_width, *of_hidden))),
            "contract_bias": _fp32(pad(contract.bias, of_width)),
            "read": _fp32(pad(read, of_width)),
            "read_sum": _fp32(read.sum(1)),
            "read_bias": _fp32(read_bias),
        }
        self.numbers = {"width": width, "inner_epsilon": inner.eps, "outer_epsilon": outer.eps}
        self.constants = {
            "FIRST": self.blocks[0],
            "SECOND": self.blocks[1],
            "HEADS": self.heads,
            "HEAD": self.head_width,
            "HIDDEN": self.hidden,
            "LABELS": folded.read.shape[0],
            "USE_GELU": use_gelu,
            "PRE_NORM": layer.pre_norm,
        }

    def pack(self, texts: FoldedTexts, side: int) -> FoldedTexts:
        """The operands of `transformer_program` and `largest_program` that belong to a text of `side`."""
        mask = texts["mask"]
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)  # real tokens first
        packed = {"counts": mask.sum(1, dtype=torch.int32)}
        if side == 1:
            for name in ("key", "value"):
                packed[name] = self._operand(_in_order(self._by_token(texts[name]), order))
        else:
            of_heads = (0, self.heads - texts["own_top"].shape[1])
            packed |= {
                "query": self._operand(self._by_token(texts["query"].float() * _LOG2_E)[:, 0]),
                "own_top": _fp32(pad(texts["own_top"][:, :, 0] * _LOG2_E, of_heads)),
                "own_sum": _fp32(pad(texts["own_sum"][:, :, 0], of_heads, value=1.0)),
                "own_mixed": _fp32(self._by_token(texts["own_mixed"])[:, 0]),
                "residual": _fp32(self._padded(texts["residual"][:, 0])),
            }
        similar = self.folded.weighted_similar(texts) if side == 0 else texts.get("similar")
        if similar is not None:
            packed["similar"] = self._operand(pad(similar, (0, -similar.shape[-1] % self.width)))
        if "tokens" in texts:
            packed["tokens"] = self._operand(self._padded(_in_order(texts["tokens"], order)))
            packed["token_weights"] = _fp32(_in_order(texts[f"weights_{1 - side}"], order))
        if f"gaps_{1 - side}" in texts:
            packed["token_gaps"] = _fp32(_in_order(texts[f"gaps_{1 - side}"], order))
        return packed

    def pairs(self, left: FoldedTexts, right: FoldedTexts, rows: torch.Tensor, out: torch.Tensor) -> None:
        """As `Programs.pairs`."""
        self._score(left, right, rows, out, len(rows), every_pair=False)

    def part(self, texts: FoldedTexts, rows: slice, side: int) -> FoldedTexts:
        """As `Programs.part`."""
        return {name: tensor[rows] for name, tensor in texts.items()}

    def block(self, left: FoldedTexts, right: FoldedTexts, out: torch.Tensor) -> None:
        """As `Programs.block`."""
        self._score(left, right, out, out, out.shape[0] * out.shape[1], every_pair=True)

    def _score(
        self, left: FoldedTexts, right: FoldedTexts, rows: torch.Tensor, out: torch.Tensor, pairs: int, every_pair: bool
    ) -> None:
        from distilmatch.engine.kernels.triton_programs import transformer_program

        n, m = len(left["counts"]), len(right["counts"])
        if "tokens" in left:  # these logits stand in `out` first, the program below adds its own
            self._largest(left, right, rows, out, pairs, every_pair)
        nothing = self.weights["read"]
        operands = {name: left[name] for name in ("query", "own_top", "own_sum", "own_mixed", "residual")}
        operands |= {name: right[name] for name in ("key", "value", "counts")}
        operands |= {"left_similar": left.get("similar", nothing), "right_similar": right.get("similar", nothing)}
        lefts = min(8, power_of_two(n)) if every_pair else 1

        def launch(tile: Tile) -> None:
            across = -(-m // (tile.pairs // lefts))
            tiles = -(-n // lefts) * across if every_pair else -(-pairs // tile.pairs)
            transformer_program[(tiles,)](
                rows=rows,
                out=out,
                pairs=pairs,
                lefts=n,
                rights=m,
                kept=right["key"].shape[1],
                **operands,
                **self.weights,
                **self.numbers,
                **self.constants,
                EVERY_PAIR=every_pair,
                LEFTS=lefts,
                PAIRS=tile.pairs,
                GROUP=min(self.group, max(1, tile.columns // self.head_width)),
                CHUNK=tile.hidden,
                SIMILAR=left["similar"].shape[-1] if "similar" in left else 0,
                LARGEST="tokens" in left,
                STAGES=tile.stages,
                num_warps=tile.warps,
                **_OPTIONS,
            )

        self._first_that_fits(launch)

    def _first_that_fits(self, launch: Callable[[Tile], None]) -> None:
        # A tile that asks for more memory than a multiprocessor has is not tried again.
        from triton.runtime.errors import OutOfResources

        while True:
            tile = self.tiles[0]
            try:
                return launch(tile)
            except OutOfResources:
                with self._choosing:  # another thread may have found it too
                    if self.tiles[-1] is tile:
                        raise
                    if self.tiles[0] is tile:
                        del self.tiles[0]

    def _largest(
        self, left: FoldedTexts, right: FoldedTexts, rows: torch.Tensor, out: torch.Tensor, pairs: int, every_pair: bool
    ) -> None:
        from distilmatch.engine.kernels.triton_programs import largest_program

        n, m = len(left["counts"]), len(right["counts"])
        kept = (left["tokens"].shape[1], right["tokens"].shape[1])
        tokens = [power_of_two(k) for k in kept]
        if every_pair:  # about 64 by 64 tokens
            texts = [max(1, 64 // k) for k in tokens]
        else:
            texts, tokens = [1, 1], [max(_FEWEST, k) for k in tokens]
        tiles = -(-n // texts[0]) * -(-m // texts[1]) if every_pair else pairs
        largest_program[(tiles,)](
            rows=rows,
            out=out,
            lefts=n,
            rights=m,
            left_tokens=left["tokens"],
            left_weights=left["token_weights"],
            left_gaps=left.get("token_gaps", left["token_weights"]),
            left_counts=left["counts"],
            right_tokens=right["tokens"],
            right_weights=right["token_weights"],
            right_gaps=right.get("token_gaps", right["token_weights"]),
            right_counts=right["counts"],
            left_kept=kept[0],
            right_kept=kept[1],
            EVERY_PAIR=every_pair,
            GAPS="token_gaps" in left,
            LEFTS=texts[0],
            RIGHTS=texts[1],
            LEFT_TOKENS=tokens[0],
            RIGHT_TOKENS=tokens[1],
            WIDTH=self.width,
            STEP=min(64, self.blocks[1] or self.blocks[0]),
            LABELS=out.shape[-1],
            num_warps=4 if tokens[0] * texts[0] * tokens[1] * texts[1] >= 1024 else 1,
            **_OPTIONS,
        )

    def _by_token(self, tensor: torch.Tensor) -> torch.Tensor:
        # (n, k, h' e') of (n, h, k, e).
        _, heads, _, head_width = tensor.shape
        by_token = tensor.transpose(1, 2)
        return pad(by_token, (0, self.head_width - head_width, 0, self.heads - heads)).flatten(2)

    def _operand(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(self.operands).contiguous()

    def _padded(self, tensor: torch.Tensor) -> torch.Tensor:
        return pad(tensor, (0, self.width - tensor.shape[-1]))


class SumsPrograms:
    """The folded feed-forward head with one hidden layer."""

    def __init__(self, folded: FoldedFeedForward, use_gelu: bool) -> None:
        weight, bias = folded.classifier.weight, folded.classifier.bias
        labels, hidden = weight.shape
        self.labels = power_of_two(labels)
        self.hidden = _multiple(hidden, _FEWEST)
        self.tile = (32, 128) if self.labels == 1 else (32, max(_FEWEST, 128 // self.labels))
        self.weights = {
            "read": _fp32(pad(weight, (0, self.hidden - hidden, 0, self.labels - labels)).T),
            "read_bias": _fp32(pad(bias, (0, self.labels - labels))),
            "labels": labels,
        }
        self.constants = {"HIDDEN": self.hidden, "LABELS": self.labels, "USE_GELU": use_gelu}

    def pack(self, texts: FoldedTexts, side: int) -> FoldedTexts:
        """`summand` (n, f')."""
        summand = texts["summand"]
        return {"summand": _fp32(pad(summand, (0, self.hidden - summand.shape[1])))}

    def pairs(self, left: FoldedTexts, right: FoldedTexts, rows: torch.Tensor, out: torch.Tensor) -> None:
        """As `Programs.pairs`."""
        from distilmatch.engine.kernels.triton_programs import sums_pairs_program

        tile = 32
        sums_pairs_program[(-(-len(rows) // tile),)](
            rows=rows,
            out=out,
            pairs=len(rows),
            left=left["summand"],
            right=right["summand"],
            **self.weights,
            **self.constants,
            PAIRS=tile,
            STEP=math.gcd(self.hidden, 64),
            num_warps=4,
            **_OPTIONS,
        )

    def part(self, texts: FoldedTexts, rows: slice, side: int) -> FoldedTexts:
        """As `Programs.part`: texts side by side, up to whole tiles."""
        summand = texts["summand"][rows]
        wide = summand.new_empty((self.hidden, _multiple(len(summand), self.tile[side])))
        wide[:, : len(summand)] = summand.T
        return {"summand": wide}

    def block(self, left: FoldedTexts, right: FoldedTexts, out: torch.Tensor) -> None:
        """As `Programs.block`."""
        from distilmatch.engine.kernels.triton_programs import sums_block_program

        left_summand, right_summand = left["summand"], right["summand"]
        rows, columns = self.tile
        sums_block_program[(left_summand.shape[1] // rows * (right_summand.shape[1] // columns),)](
            out=out,
            lefts=out.shape[0],
            rights=out.shape[1],
            left=left_summand,
            right=right_summand,
            left_stride=left_summand.shape[1],
            right_stride=right_summand.shape[1],
            **self.weights,
            **self.constants,
            ROWS=rows,
            COLUMNS=columns,
            UNROLL=4,
            num_warps=4,
            **_OPTIONS,
        )


def two_blocks(width: int) -> tuple[int, int]:
    """Two powers of two that hold the width, the second zero or smaller."""
    first = 1 << (width.bit_length() - 1)
    rest = power_of_two(width - first) if width > first else 0
    if rest == first or first < _FEWEST:
        return max(_FEWEST, power_of_two(width)), 0
    return first, max(_FEWEST, rest) if rest else 0


def power_of_two(number: int) -> int:
    """The least that holds the number."""
    return 1 << (number - 1).bit_length()


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def _in_order(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    # (n, k, x) with each text's k tokens in an order, (n, k).
    return tensor.gather(1, order[:, :, None].expand(-1, -1, tensor.shape[2]))


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().contiguous()
