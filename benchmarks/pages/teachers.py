"""Writes docs/results/teachers.md: what the teacher's defaults are worth, and how far its probabilities are from shares."""

from __future__ import annotations

from typing import Any

from benchmarks.pages.parts import PAGES, markdown_table, sections
from benchmarks.pages.quality import GRADINGS
from benchmarks.sets import SETS

TARGET = PAGES / "teachers.md"
HEAD = """# Teachers

A student is as good as its teacher lets it be. This page is written from `benchmarks/results/` by `python -m benchmarks.pages`.
"""


def render() -> str:
    """The page."""
    return sections(HEAD, {"teacher_search": _search, "calibration": _calibration})


def _search(result: dict[str, Any]) -> str:
    metrics, notes = result["metrics"], result["notes"]
    rows = []
    for name, metric in notes["metric"].items():
        rows.append(
            [
                f"{SETS[name].title}, {GRADINGS[metric]}",
                *(f"{metrics[f'{name}_{way}']:.3f}" for way in ("old", "new")),
                *(f"{metrics[f'{name}_{way}_dev']:.3f}" for way in ("old", "new")),
                *(f"{metrics[f'{name}_{way}_minutes']:.0f}" for way in ("old", "new")),
            ]
        )
    headings = ["", "old, test", "new, test", "old, dev", "new, dev", "old, minutes", "new, minutes"]
    left_out = [SETS[name].title for name in notes.get("left_out", ())]
    threads = "one thread" if notes["threads"] == 1 else f"{notes['threads']} threads"
    missing = f"\n\nNot measured yet: {', '.join(left_out)}." if left_out else ""
    runs = [*notes.get("before", ()), {"command": result["command"], "processor": result["machine"]["processor"]}]
    repeat = "\n".join(f"- `{run['command']}` ({run['processor']})" for run in runs)
    return f"""## The defaults of `finetune-teacher`

{markdown_table(headings, rows)}

Old: a learning rate of 1e-4, four epochs, batches of 32, 256 tokens, the base model's dropout, the score read from the first
token. New: what `finetune-teacher` does by itself in {notes["minutes"]:g} minutes on {threads}, the same for all sets:
mostly time for the usual settings and hardly any for a search. All-MiniLM-L6-v2, one seed; the epoch was chosen on dev. A slower
machine gets fewer epochs into the same minutes.{missing}

Repeat:

{repeat}
"""


def _calibration(result: dict[str, Any]) -> str:
    metrics, notes = result["metrics"], result["notes"]
    rows = [
        [
            SETS[name].title,
            *(f"{metrics[f'{name}_{figure}']:.3f}" for figure in ("ece_before", "ece_after")),
            *(f"{metrics[f'{name}_{figure}']:.3f}" for figure in ("log_loss_before", "log_loss_after")),
            *(f"{metrics[f'{name}_{figure}']:.3f}" for figure in ("f1_at_half", "f1_at_dev_threshold")),
        ]
        for name in notes["models"]
    ]
    headings = ["test split", "ECE before", "after", "log loss before", "after", "F1 at 0.5", "F1 at dev's threshold"]
    return f"""## Thresholds and calibrated probabilities

{markdown_table(headings, rows)}

Teachers of `finetune-teacher`. {notes.get("since", "")} Threshold and calibration are fitted on dev. The expected
calibration error has {notes["bins"]}; the worst set has {metrics["ece_before"]:.3f} before and {metrics["ece_after"]:.3f} after.

Repeat: `{result["command"]}`.
"""
