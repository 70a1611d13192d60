"""All pairs cut into strips: each pair once, blocks that fit, and never less read than the bound says."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.engine.grid import Sizes, grid_of, least_bytes, read_bytes, tile_of

SIZES = st.builds(
    lambda texts, text_bytes, chunks: Sizes(texts=texts, text_bytes=text_bytes, chunks=chunks),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.sampled_from([1, 4, 16]), st.sampled_from([1, 4, 16])),
)


@given(SIZES, st.integers(20, 400), st.integers(1, 9), st.integers(0, 40), st.none() | st.integers(1, 50))
def test_each_pair_is_in_one_strip(sizes: Sizes, memory: int, workers: int, start: int, most: int | None) -> None:
    start = min(start, sizes.texts[0] - 1)
    grid = grid_of(sizes, memory, workers, start, most)
    times = np.zeros(sizes.texts, dtype=int)
    numbers = []
    for block in range(grid.blocks):
        for strip in grid.strips(block):
            times[strip.left.start : strip.left.stop, strip.right.start : strip.right.stop] += 1
            numbers.append(strip.number)
            assert strip.block == block and strip.pairs == len(strip.left) * len(strip.right) > 0
    assert (times[start:] == 1).all() and not times[:start].any()
    assert numbers == list(range(len(numbers)))
    assert grid.row_step <= (most or grid.rows)
    assert grid.row_step == 1 or grid.row_step * sizes.text_bytes[0] <= memory


@given(st.integers(1, 12), st.integers(1, 12), st.integers(2, 40), st.randoms(use_true_random=False))
def test_no_order_of_reading_beats_the_bound(n: int, m: int, room: int, draw: object) -> None:
    # An oracle that reads text by text into a memory of `room` bytes, for pairs in any order, and evicts at random.
    sizes = Sizes(texts=(n, m), text_bytes=(1, 1))
    missing = {(i, j) for i in range(n) for j in range(m)}
    held: set[tuple[int, int]] = set()
    read = 0
    while missing:
        i, j = draw.choice(sorted(missing))  # type: ignore[attr-defined]
        for text in ((0, i), (1, j)):
            if text not in held:
                while len(held) >= room:
                    held.remove(draw.choice(sorted(held - {(0, i), (1, j)})))  # type: ignore[attr-defined]
                held.add(text)
                read += 1
        missing -= {(a, b) for a in range(n) for b in range(m) if {(0, a), (1, b)} <= held}
    assert read >= least_bytes(sizes, room, 1) - 1e-9


def test_how_near_the_bound_it_comes() -> None:
    million = Sizes(texts=(10**6, 10**6), text_bytes=(4096, 4096), chunks=(4096, 4096))
    for memory, workers, most in ((2**28, 1, 1.35), (2**28, 1000, 1.35), (2**31, 100, 1.35), (2**40, 64, 1.1)):
        grid = grid_of(million, memory, workers)
        near = read_bytes(million, grid, workers) / least_bytes(million, memory, workers)
        assert 1.0 <= near <= most, (memory, workers, near)
        assert grid.blocks * grid.strips_a_block >= 8 * workers


def test_steps_end_where_chunks_do_and_tiles_go_by_the_side_alone() -> None:
    sizes = Sizes(texts=(10**6, 10**6), text_bytes=(4096, 4096), chunks=(4096, 8192))
    grid = grid_of(sizes, 2**30, 7)
    assert grid.row_step % 4096 == 0 and grid.column_step % 8192 == 0
    assert [tile_of(texts) for texts in (1, 15, 16, 100, 6400, 10**6)] == [1, 1, 1, 4, 256, 1024]
    small = Sizes(texts=(6400, 6400), text_bytes=(4096, 4096), chunks=(8192, 8192))
    for workers in (2, 3, 8):
        grid = grid_of(small, 2**30, workers)
        assert grid.row_step % 256 == 0 and grid.column_step % 256 == 0
    assert math.isclose(least_bytes(small, 2**40, 1), 2 * 6400 * 4096)
