"""Writes docs/results/quality.md from the results of the benchmarks."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.pages.parts import PAGES, markdown_table, sections, spread

TARGET = PAGES / "quality.md"
HEAD = """# Students beside their teachers

Every figure is of a test split that nothing was tuned on. Where there is a spread, it is the sample standard deviation and
the range over the seeds; teacher and labels are the same for all of them. Settings that are not named are the package's
defaults. This page is written from `benchmarks/results/` by `python -m benchmarks.pages`.
"""
SICK_ROWS = {
    "student": "DiPair, 16 + 16 tokens, one head layer",
    "student_4_8": "DiPair, 4 + 8 tokens, one head layer",
    "de_ffnn": "DE-FFNN: one pooled vector a side, feed-forward",
    "de_cos": "DE-Cos: one pooled vector a side, cosine",
    "tiny_cross_encoder": "cross-encoder of two layers, same labels and time",
}


def render() -> str:
    """The page."""
    return sections(
        HEAD,
        {
            "quality_sick": _sick,
            "quality_speed": _quality_and_speed,
            "quality_stsb": _stsb,
            "quality_cranfield": _cranfield,
        },
    )


def _sick(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    rows = [
        [
            label,
            spread(metrics, f"{name}_accuracy", 3),
            _share(metrics, f"{name}_share_of_teacher"),
            _agreement(metrics, name),
        ]
        for name, label in SICK_ROWS.items()
        if f"{name}_accuracy" in metrics
    ]
    teacher = ["teacher, a fine-tuned MiniLM-L6 cross-encoder", f"{metrics['teacher_accuracy']:.3f}", "", ""]
    table = markdown_table(["", "accuracy", "of the teacher's", "agreement with it"], [teacher, *rows])
    return f"""## SICK: entailment, three classes, 4,927 test pairs

{table}

Each learns from the same labels, the students in the same number of steps, the two-layer cross-encoder in the same time.
{_repeat(result)}"""


def _quality_and_speed(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    named = {"teacher": "teacher, a fine-tuned MiniLM-L6 cross-encoder"} | SICK_ROWS
    rows = [
        [
            label,
            f"{metrics[f'{name}_accuracy']:.3f}",
            _rate(metrics.get(f"{name}_from_text_pairs_per_s", metrics[f"{name}_pairs_per_s"])),
            _rate(metrics[f"{name}_pairs_per_s"]) if f"{name}_from_text_pairs_per_s" in metrics else "",
        ]
        for name, label in named.items()
        if f"{name}_accuracy" in metrics
    ]
    table = markdown_table(["", "accuracy", "pairs/s from text", "from stored vectors"], rows)
    return f"""## Quality against speed

![Accuracy against pairs a second on SICK](quality-speed.png)

{table}

On SICK, each model trained and timed in one run: one seed, one round of labels (four in the table above), about
{metrics["minutes_student"]:.0f} minutes of one core a student, the two-layer cross-encoder in the same time.
So their accuracy is below that of the table above. Rates are those of two cores, each model in its fastest number
format here; DE-Cos and DE-FFNN read two vectors a pair.

Repeat: `python -m benchmarks.quality_speed --data DIR`.
"""


def _rate(pairs_per_s: float) -> str:
    return f"{pairs_per_s:,.0f}"


def _stsb(result: dict[str, Any]) -> str:
    untrained = [
        "the student's encoder before training, its cosine",
        f"{result['metrics']['encoder_cosine_spearman']:.3f}",
        "",
    ]
    return f"""## STS-B: similarity, regression, 1,379 test pairs

{_two_rows(result, "spearman", "Spearman", untrained)}
{_repeat(result)}"""


def _cranfield(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    search = ["the embedding search itself", f"{metrics['search_ndcg10']:.3f}", ""]
    return f"""## Cranfield: ranking, 225 queries, the top 100 of an embedding search reranked

The teacher learnt titles against abstracts; neither it nor the student has seen a query or a judgement.

{_two_rows(result, "ndcg10", "nDCG@10", search)}
{_repeat(result)}"""


def _two_rows(result: dict[str, Any], metric: str, heading: str, *further: list[str]) -> str:
    metrics = result["metrics"]
    rows = [
        ["teacher, a fine-tuned MiniLM-L6 cross-encoder", f"{metrics[f'teacher_{metric}']:.3f}", ""],
        ["DiPair student", spread(metrics, f"student_{metric}", 3), _share(metrics, "student_share_of_teacher")],
    ]
    if f"de_ffnn_{metric}" in metrics:
        rows.append(
            [SICK_ROWS["de_ffnn"], f"{metrics[f'de_ffnn_{metric}']:.3f}", _share(metrics, "de_ffnn_share_of_teacher")]
        )
    return markdown_table(["", heading, "of the teacher's"], [*rows, *further])


def _share(metrics: dict[str, float], name: str) -> str:
    return f"{100 * metrics[name]:.1f} %"


def _agreement(metrics: dict[str, float], name: str) -> str:
    return f"{metrics[f'{name}_agreement']:.3f}" if f"{name}_agreement" in metrics else ""


def _repeat(result: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, result["seeds"]))
    minutes = [value for name, value in result["metrics"].items() if name.startswith("minutes_student_seed")]
    settings = {part: result["notes"][part] for part in ("student", "transfer", "stage2") if part in result["notes"]}
    own = f"Its own settings: `{json.dumps(settings)}`.\n" if settings else ""
    return (
        f"\n{own}Seeds {seeds}; {min(minutes):.0f} to {max(minutes):.0f} minutes a student on one thread of "
        f"{result['machine']['processor']}. Repeat: `python -m benchmarks.{result['name']} --data DIR`.\n"
    )
