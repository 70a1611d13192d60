"""The frontier as a picture: quality against pairs per second, size of a point by bytes of cache an item."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from distilmatch.errors import ConfigError
from distilmatch.tuning.search import Frontier

_OWN, _OTHER, _BEST = "#0b6e4f", "#b8bfc6", "#c8553d"


def plot_frontier(frontier: Frontier, path: Path) -> Path:
    """Writes the picture and returns where it is.

    Raises:
        ConfigError: there is no trial.
    """
    if not frontier.trials:
        raise ConfigError("the search finished no trial: there is nothing to draw")
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.subplots()
    on = sorted((trial for trial in frontier.trials if trial.on_frontier), key=lambda trial: trial.pairs_per_s)
    off = [trial for trial in frontier.trials if not trial.on_frontier]
    for trials, colour, label in ((off, _OTHER, "beaten by another"), (on, _OWN, "frontier")):
        if trials:
            axes.scatter(
                [trial.pairs_per_s for trial in trials],
                [trial.quality for trial in trials],
                s=[20 + trial.bytes_per_item / 100 for trial in trials],
                color=colour,
                alpha=0.85,
                edgecolors="white",
                label=label,
                zorder=3,
            )
    middle = (min(t.pairs_per_s for t in frontier.trials) * max(t.pairs_per_s for t in frontier.trials)) ** 0.5
    for trial in on:
        leftwards = trial.pairs_per_s > middle
        axes.annotate(
            _label(trial.student, trial.bytes_per_item),
            (trial.pairs_per_s, trial.quality),
            textcoords="offset points",
            xytext=(-7 if leftwards else 7, 5),
            ha="right" if leftwards else "left",
            fontsize=7,
            color="#333333",
        )
    if frontier.best is not None:
        axes.scatter(
            [frontier.best.pairs_per_s],
            [frontier.best.quality],
            s=[90 + frontier.best.bytes_per_item / 100],
            facecolors="none",
            edgecolors=_BEST,
            linewidths=1.8,
            label="chosen",
            zorder=4,
        )
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.12)
    axes.set_xlabel("pairs per second of the cached head (log scale)")
    axes.set_ylabel(f"dev {frontier.metric}")
    axes.set_title("Quality against speed; a larger point takes more cache", fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=140)
    return path


def _label(student: dict[str, object], size: int) -> str:
    kept = student["kept_tokens"]
    assert isinstance(kept, list | tuple)
    head = f"{student['head']}" + (f" x{student['head_layers']}" if student["head"] == "transformer" else "")
    return f"{'+'.join(map(str, kept))} {head.replace('_', '-')}, {size / 1024:.1f} KiB"
