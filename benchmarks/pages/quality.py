"""Writes docs/results/quality.md from the results of the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
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
    "de_ffnn": "DE-FFNN over two pooled vectors u, v alone, not |u − v|, u · v",
    "de_cos": "DE-Cos: one pooled vector a side, cosine",
    "tiny_cross_encoder": "cross-encoder of two layers, same labels and time",
}
GRADINGS = {
    "f1": "F1",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "map": "MAP",
    "mrr": "MRR",
    "ndcg10": "nDCG@10",
}
JOB_ROWS = {
    "job": "student, `match`",
    "embedding_search": "embedding search, untrained encoder",
    "tfidf_blocking": "TF-IDF blocking",
    "teacher_on_student": "the teacher's order of the student's 100",
    "teacher_on_search": "the teacher's order of the search's 100",
}


DEDUPLICATED = {
    "student": "student by default, within categories",
    "feed_forward_compared": "feed-forward head with products, all pairs",
    "tfidf": "TF-IDF, cosine, within categories",
    "tfidf_all": "TF-IDF, cosine, all pairs",
    "embedding": "untrained encoder, cosine, within categories",
    "embedding_all": "untrained encoder, cosine, all pairs",
}
DEDUPLICATION = """{offers:,} offers of {products:,} products, of which no model saw any; each threshold is that of the best F1 of
pairs on other offers. A cluster is right where it is a product's offers, all and no other; clusters are joined
by chains of pairs. Minutes are the commands', from texts to file. On pairs of near misses of the same products
the teacher's F1 is {teacher:.3f}, the student's {student:.3f}, the feed-forward head's
{feed_forward_compared:.3f}. One seed."""


def render() -> str:
    """The page."""
    writers: dict[str, Callable[[dict[str, Any]], str]] = {
        "quality_products": _comparison,
        "deduplication": _deduplication,
        "quality_homedepot": _comparison,
        "quality_wikiqa": _comparison,
        "quality_korsts": _comparison,
        "quality_sick": partial(_either, _sick),
        "quality_speed": _quality_and_speed,
        "quality_stsb": partial(_either, _stsb),
        "quality_cranfield": partial(_either, _cranfield),
    }
    return sections(HEAD, writers)


def _either(older: Callable[[dict[str, Any]], str], result: dict[str, Any]) -> str:
    """A result of the harness as its table, one from before as it was."""
    return _comparison(result) if "rows" in result["notes"] else older(result)


def _comparison(result: dict[str, Any]) -> str:
    """The harness's fixed rows: every metric, the share of the teacher's main one, minutes and pairs a second."""
    metrics, notes = result["metrics"], result["notes"]
    teacher = metrics[f"teacher_{notes['main']}"]
    shown = [name for name in GRADINGS if f"teacher_{name}" in metrics]
    agrees = any(f"{kind}_agreement" in metrics for kind in notes["rows"])
    rows = []
    for kind, label in notes["rows"].items():
        seeds = notes["seeds_of"][kind]
        rows.append(
            [
                label + (f", {seeds} seeds" if seeds > 1 else ""),
                *(spread(metrics, f"{kind}_{name}", 3) for name in shown),
                f"{100 * metrics[f'{kind}_' + notes['main']] / teacher:.1f} %",
                *(
                    [spread(metrics, f"{kind}_agreement", 3) if f"{kind}_agreement" in metrics else ""]
                    if agrees
                    else []
                ),
                f"{metrics[f'{kind}_minutes']:.0f}" if metrics.get(f"{kind}_minutes") else "",
                _given(metrics.get(f"{kind}_from_text_pairs_per_s")),
                _given(metrics.get(f"{kind}_pairs_per_s")),
            ]
        )
    headings = ["", *(GRADINGS[name] for name in shown), "of the teacher's"]
    headings += ["agreement with the teacher"] if agrees else []
    headings += ["minutes", "pairs/s from text", "pairs/s"]
    seeds = f"Seeds {', '.join(map(str, result['seeds']))} where a row has several."
    seeds = seeds if len(result["seeds"]) > 1 else "One seed."
    usual = f"python -m benchmarks.{result['name']} --data DIR"
    command = usual if not _shorter(notes) else result["command"].replace("--data data", "--data DIR")
    parts = [
        f"## {notes['set']}",
        markdown_table(headings, rows),
        f"All read the same texts, cut to {notes['max_lengths'][0]} and {notes['max_lengths'][1]} tokens a side, and learn from "
        f"the same labels;\nthresholds and choices are dev's. Pairs a second are of the models whose quality stands beside "
        f"them: students from stored\nvectors by the kernel that `score` and `match` take, cross-encoders from text.",
        _job(metrics),
        _shorter(notes),
        _left_out(notes),
        f"{seeds} Repeat: `{command}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shorter(notes: dict[str, Any]) -> str:
    """What a comparison did otherwise than the defaults."""
    said = []
    if notes.get("teachers", 1) > 1:
        said.append(f"The teacher is the mean of {notes['teachers']} seeds.")
    less = []
    if notes.get("rounds") is not None:
        less.append("from 1 round of blocks" if notes["rounds"] == 1 else f"from {notes['rounds']} rounds of blocks")
    if notes.get("stage1_epochs") is not None:
        less.append(f"for {notes['stage1_epochs']:g} epochs of stage 1")
    if notes.get("epochs") is not None:
        less.append(f"for {notes['epochs']:g} epochs of stage 2" if notes["epochs"] else "without stage 2")
    if less:
        said.append(f"Students learn {' and '.join(less)}, fewer than by default: they are not the default's figures.")
    said += [notes["since"]] if "since" in notes else []  # what has changed after the run
    return "\n".join(said)


def _left_out(notes: dict[str, Any]) -> str:
    """The rows that were not made yet, in the page's words."""
    names = [label.replace("**", "") for label in notes.get("left_out", ())]
    return f"Not measured yet: {'; '.join(names)}." if names else ""


def _job(metrics: dict[str, float]) -> str:
    """The whole job of `quality_products`, where it was done."""
    if "job_minutes" not in metrics:
        return ""
    ways = [(name, label) for name, label in JOB_ROWS.items() if f"{name}_recall_at_10" in metrics]
    depths = (1, 10, 20, 100)
    table = markdown_table(
        ["known matches of the test split among the best", *map(str, depths)],
        [[label, *(f"{100 * metrics[f'{name}_recall_at_{k}']:.1f} %" for k in depths)] for name, label in ways],
    )
    found, share, right = (
        metrics[f"job_{name}"] for name in ("pairs_above_threshold", "recall_above_threshold", "precision_lower_bound")
    )
    return f"""The whole job, {metrics["job_pairs"]:,.0f} pairs by `encode` and `match`, took {metrics["job_minutes"]:.1f}
minutes. Above dev's threshold it finds {found:,.0f} pairs and {100 * share:.1f} % of the known matches;
{100 * right:.1f} % of its pairs are known, a lower bound of its precision.

{table}"""


def _deduplication(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    rows = []
    for name, label in DEDUPLICATED.items():
        if f"{name}_pair_f1" in metrics:
            shares = [
                f"{metrics[f'{name}_{each}']:.3f}"
                for each in ("pair_precision", "pair_recall", "pair_f1", "cluster_f1")
            ]
            compared = metrics.get(f"{name}_compared")
            rows.append(
                [label, *shares, f"{metrics[f'{name}_largest_cluster']:.0f}", f"{metrics[f'{name}_minutes']:.1f}"]
            )
            rows[-1].append("" if compared is None else f"{compared / 1e6:.1f} M")
    titles = [
        "PriceRunner",
        "precision",
        "recall",
        "F1 of pairs",
        "F1 of clusters",
        "largest",
        "minutes",
        "pairs scored",
    ]
    facts = {
        "offers": int(metrics["offers"]),
        "products": int(metrics["products"]),
        "teacher": metrics["teacher_test_f1"],
    }
    facts |= {name: metrics.get(f"{name}_test_f1", float("nan")) for name in ("student", "feed_forward_compared")}
    text = DEDUPLICATION.format(**facts)
    command = result["command"].replace("--data data", "--data DIR")
    return f"## Duplicates in one table\n\n{markdown_table(titles, rows)}\n\n{text} Repeat: `{command}`.\n"


def _given(rate: float | None) -> str:
    return "" if rate is None else _rate(rate)


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

The teacher learnt titles against abstracts; neither it nor the student has seen a query or a judgement. **Not like for
like:** a pair of the teacher's was cut to 160 tokens, about 140 of them the document's; the student read 158 of the document.
The benchmark now cuts every document alike before any model reads it; these figures are from before.

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
