"""What the reports share: how time is measured and how plots look."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#6e6e6e"
_GRID = "#e4e4e4"


_SECONDS = 2.0


def median_seconds(work: Callable[[], object], *, seconds: float = _SECONDS, first: float | None = None) -> float:
    """The median time of one run of `work`, repeated for about `seconds`, three times at least.

    `first` is the time of a warm run that took place already; at or above `seconds` it counts alone.
    """
    times = [] if first is None else [first]
    if first is not None and first >= seconds:
        return first
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def dress(axes: Axes, title: str, *, grid: str) -> None:
    """The look that the plots share: a title to the left, a light grid, no frame."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(True, axis=grid, color=_GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both", labelcolor="#333333", labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
