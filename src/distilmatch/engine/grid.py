"""All pairs of two sides cut into strips for several workers, and the least that any such cut reads.

A strip is a block of left texts and a run of right ones. A worker folds the left block once and keeps it; the right texts come
chunk by chunk, meet the block, and go. So nearly all of a worker's memory holds texts that every text which comes by meets.

The least: M bytes of memory, of which the worker reads L in all, with P of left bytes times right bytes to cover. A byte meets
the bytes of the other side that are there when it comes, at most M, and while memory fills no more than came before it. So
P <= M^2 / 2 + M (L - M), and P <= (L / 2)^2 always, since the bytes are of two sides. With P = n l m r / W for each of W workers,
L >= max(2 sqrt(P), P / M + M / 2, the latter where it is more than M). A block of 13/16 of the memory is within 16/13 of it; a
grid of squares, both sides in half the memory each and walked to and fro, is at twice the least.

Shape legend: n, m texts of the two sides; l, r bytes of a folded text of each; W workers; M bytes of memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_BLOCK_SHARE = (
    13 / 16
)  # of the memory; an eighth holds texts while they are folded, a sixteenth a chunk of the other side
_STRIPS_A_WORKER = 16
_MOST_STRIPS = 2**16
_TILES = 16  # a side has at least, where it has so many texts
_LARGEST_TILE = 1024


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The two sides of a job.

    Attributes:
        texts: of each side.
        text_bytes: of a folded text of each.
        chunks: texts of each side that are folded together.
    """

    texts: tuple[int, int]
    text_bytes: tuple[int, int]
    chunks: tuple[int, int] = (1, 1)

    def side_bytes(self, side: int, texts: int | None = None) -> int:
        """Bytes of a side, or of some of its texts."""
        return (self.texts[side] if texts is None else texts) * self.text_bytes[side]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A block of left texts and a run of right ones; `number` is its place in the grid."""

    number: int
    block: int
    left: range
    right: range

    @property
    def pairs(self) -> int:
        """Pairs in it."""
        return len(self.left) * len(self.right)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Left blocks of `row_step` texts, from `start` to `rows`; each meets the right side in strips of `column_step` texts."""

    start: int
    rows: int
    columns: int
    row_step: int
    column_step: int

    @property
    def blocks(self) -> int:
        """How many left blocks there are."""
        return -(-(self.rows - self.start) // self.row_step)

    @property
    def strips_a_block(self) -> int:
        """In how many strips a block meets the right side."""
        return -(-self.columns // self.column_step)

    def block(self, number: int) -> range:
        """The left texts of a block."""
        first = self.start + number * self.row_step
        return range(first, min(first + self.row_step, self.rows))

    def strips(self, block: int) -> list[Strip]:
        """The strips of a block."""
        left = self.block(block)
        firsts = range(0, self.columns, self.column_step)
        number = block * self.strips_a_block
        return [
            Strip(
                number=number + place,
                block=block,
                left=left,
                right=range(first, min(first + self.column_step, self.columns)),
            )
            for place, first in enumerate(firsts)
        ]


def tile_of(texts: int) -> int:
    """Texts of a side that a kernel is shown in one call: a power of two that goes by the side alone.

    A product's last bits go by its shape in some libraries. Strips end where a tile does, so that the calls, and the scores,
    are the same however many workers there are.
    """
    return max(1, min(_LARGEST_TILE, _power(texts // _TILES)))


def grid_of(sizes: Sizes, memory_bytes: int, workers: int, start: int = 0, most_rows: int | None = None) -> Grid:
    """The cut that reads the fewest bytes, with enough strips that all workers end at about the same time.

    Args:
        memory_bytes: of a worker, for folded texts.
        start: left texts before it are done.
        most_rows: left texts of a block at most.
    """
    left, columns = sizes.texts[0] - start, sizes.texts[1]
    whole = [max(tile_of(texts), chunk) for texts, chunk in zip(sizes.texts, sizes.chunks, strict=True)]
    room = max(1, int(_BLOCK_SHARE * memory_bytes) // sizes.text_bytes[0])
    most = min(room, most_rows or left)
    fewest = -(-left // most)
    step = min(
        {_aligned(-(-left // blocks), whole[0], tile_of(sizes.texts[0]), most) for blocks in _counts(fewest, workers)},
        key=lambda step: (_read_bytes(sizes, left, step, workers), -step),
    )
    blocks = -(-left // step)
    parts = max(1, min(_STRIPS_A_WORKER * workers, _MOST_STRIPS) // blocks, -(-workers // blocks))
    tile = tile_of(columns)
    return Grid(
        start=start,
        rows=sizes.texts[0],
        columns=columns,
        row_step=step,
        column_step=min(columns, _aligned(-(-columns // parts), whole[1], tile, columns)),
    )


def read_bytes(sizes: Sizes, grid: Grid, workers: int) -> int:
    """Bytes of folded texts that the workers need: a block's own as often as workers share it, the right side's once a block."""
    return _read_bytes(sizes, grid.rows - grid.start, grid.row_step, workers)


def _read_bytes(sizes: Sizes, left: int, step: int, workers: int) -> int:
    blocks = -(-left // step)
    return -(-workers // blocks) * sizes.side_bytes(0, left) + blocks * sizes.side_bytes(1)


def least_bytes(sizes: Sizes, memory_bytes: int, workers: int, start: int = 0) -> float:
    """The least that `workers` workers read which score as many pairs each; see the module."""
    sides = sizes.side_bytes(0, sizes.texts[0] - start), sizes.side_bytes(1)
    pairs = sides[0] * sides[1] / workers
    past_memory = pairs / memory_bytes + memory_bytes / 2
    each = max(2 * math.sqrt(pairs), past_memory if past_memory > memory_bytes else 0.0)
    return max(workers * each, float(sum(sides)))


def _counts(fewest: int, workers: int) -> Sequence[int]:
    # Numbers of blocks that are tried: more than workers only adds to what is read.
    return range(fewest, max(fewest, workers) + 1)


def _aligned(step: int, whole: int, tile: int, most: int) -> int:
    """A step that ends where whole chunks do, as far as that leaves it between a half and all of `most`; else where tiles do."""
    unit = whole if step >= whole else tile
    up, down = -(-step // unit) * unit, step // unit * unit
    if up <= most:
        return up
    return down or min(step, most)


def _power(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1) if number else 1
