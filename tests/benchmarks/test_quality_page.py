"""The page shows what the harness publishes: every row, the teacher's share and the job."""

from __future__ import annotations

from typing import Any

from benchmarks.pages import quality

from benchmarks import harness


def _result() -> dict[str, Any]:
    metrics: dict[str, float] = {}
    for place, kind in enumerate(harness.LABELS):
        metrics |= {f"{kind}_f1": 0.5 + place / 100, f"{kind}_average_precision": 0.4, f"{kind}_minutes": float(place)}
    metrics |= {"student_pairs_per_s": 12_345.0, "student_from_text_pairs_per_s": 67.0}
    metrics |= {"student_f1_std": 0.01, "student_f1_min": 0.57, "student_f1_max": 0.59, "teacher_f1": 0.8}
    metrics["student_f1"], metrics["student_minutes"] = 0.59, 10.0
    notes = {"set": "Some set", "main": "f1", "rows": harness.LABELS, "max_lengths": [128, 64]}
    notes["seeds_of"] = {kind: 3 if kind in harness.SEEDED else 1 for kind in harness.LABELS}
    return {
        "name": "quality_products",
        "command": "python -m benchmarks.quality_products --data data --rounds 2",
        "metrics": metrics,
        "notes": notes,
        "seeds": [0, 1, 2],
    }


def test_every_row_stands_in_the_table() -> None:
    result = _result()
    page = quality._either(lambda _: "older", result)
    for label in harness.LABELS.values():
        assert "| " + label.replace("|", "\\|") in page  # else a bar would end the cell
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "0.590 ± 0.010 (0.570 to 0.590) | 0.400 | 73.8 % | 10 | 67 | 12,345 |" in page
    assert "agreement with the teacher" not in page
    result["metrics"]["student_agreement"] = 0.912
    page = quality._comparison(result)
    assert "| 73.8 % | 0.912 | 10 | 67 | 12,345 |" in page and "agreement with the teacher" in page
    assert "128 and 64 tokens" in page and "The whole job" not in page
    assert quality._either(lambda _: "older", result | {"notes": {}}) == "older"


def test_the_job_stands_below() -> None:
    result = _result()
    result["metrics"] |= {f"job_recall_at_{k}": k / 100 for k in (1, 10, 20, 100)}
    result["metrics"] |= {"job_minutes": 1.26, "job_pairs": 56_000_000, "job_pairs_above_threshold": 2000}
    result["metrics"] |= {"job_recall_above_threshold": 0.5, "job_precision_lower_bound": 0.25}
    page = quality._comparison(result)
    assert "| student, `match` | 1.0 % | 10.0 % | 20.0 % | 100.0 % |" in page
    assert "took 1.3\nminutes" in page and "25.0 % of its pairs are known" in page and "TF-IDF blocking" not in page


def test_rows_that_were_not_made_are_named() -> None:
    result = _result()
    assert "Not measured yet" not in quality._comparison(result)
    result["notes"]["rows"] = {kind: label for kind, label in harness.LABELS.items() if kind in ("student", "teacher")}
    result["notes"]["left_out"] = ["BM25", "**student by default**"]
    page = quality._comparison(result)
    assert "Not measured yet: BM25; student by default." in page and "| BM25" not in page


def test_what_was_not_the_default_is_said() -> None:
    result = _result()
    assert "rounds of blocks" not in quality._comparison(result) and "mean of" not in quality._comparison(result)
    result["notes"] |= {"rounds": 2, "teachers": 3}
    page = quality._comparison(result)
    assert "the mean of 3 seeds" in page and "from 2 rounds of blocks, fewer than by default" in page
    assert "Repeat: `python -m benchmarks.quality_products --data DIR --rounds 2`" in page
    result["notes"]["epochs"] = 2.0
    assert "from 2 rounds of blocks and for 2 epochs of stage 2, fewer than" in quality._comparison(result)
