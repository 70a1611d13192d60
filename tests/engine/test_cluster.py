"""Many machines played through: the sums without chance, what chance costs, and where more machines save little."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distilmatch.engine.grid import Sizes, grid_of, read_bytes
from distilmatch.planning.cluster import Machines, cluster_plan, merge_rate

SIZES = Sizes(texts=(10**6, 10**6), text_bytes=(4096, 4096), chunks=(4096, 4096))
QUIET = Machines(
    count=100,
    pairs_per_s=1e7,
    folded_per_s=(1e5, 1e5),
    memory_bytes=2**31,
    stored_bytes=(1024, 1024),
    hours_between_failures=1e9,
    straggling=0.0,
    start_s=10.0,
    price_per_hour=2.0,
)


def test_without_chance_it_is_the_sum_of_its_parts() -> None:
    one = replace(QUIET, count=1)
    plan = cluster_plan(SIZES, 10, one)
    grid = grid_of(SIZES, one.memory_bytes, 1)
    texts = read_bytes(SIZES, grid, 1) // 4096
    expected = 10 + 1e12 / 1e7 + texts * (1 / 1e5 + 1024 / one.link_bytes_per_s)
    assert plan.seconds == pytest.approx(expected, rel=0.01)
    assert plan.bytes_moved == pytest.approx(texts * 1024 + grid.strips_a_block * 10**6 * 120)
    assert plan.cost == pytest.approx(plan.seconds / 3600 * 2)
    assert (plan.lost, plan.strips) == (0, grid.blocks * grid.strips_a_block)
    assert 1.0 <= plan.read_over_least < 2.0  # 1.9 blocks are 3


def test_a_hundred_machines_share_evenly_and_chance_costs_time() -> None:
    quiet = cluster_plan(SIZES, 10, QUIET)
    assert quiet.ideal_seconds == pytest.approx(1000)
    assert 1.0 < quiet.seconds / quiet.ideal_seconds < 1.3
    slow = cluster_plan(SIZES, 10, replace(QUIET, straggling=0.6))
    assert slow.seconds > quiet.seconds
    failing = cluster_plan(SIZES, 10, replace(QUIET, hours_between_failures=2.0))
    assert failing.lost > 0 and failing.strips == quiet.strips + failing.lost
    assert failing.seconds > quiet.seconds and failing.bytes_moved > quiet.bytes_moved
    assert cluster_plan(SIZES, 10, QUIET) == quiet


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"storage_bytes_per_s": 1e7}, "the storage"),
        ({"merged_per_s": 1e4}, "the driver, which merges and writes"),
        ({"start_s": 5000.0}, "the machines' start"),
    ],
)
def test_what_is_slow_limits(change: dict[str, float], limit: str) -> None:
    changed = replace(QUIET, **change)  # type: ignore[arg-type]
    plan = cluster_plan(SIZES, 10, changed)
    assert plan.limit == limit
    assert plan.saturates_at < cluster_plan(SIZES, 10, QUIET).saturates_at
    few, many = (cluster_plan(SIZES, 10, replace(changed, count=plan.saturates_at * times)) for times in (1, 8))
    assert many.seconds > few.seconds / 4


def test_merging_is_measured() -> None:
    assert merge_rate(10, seconds=0.02) > 1e4
