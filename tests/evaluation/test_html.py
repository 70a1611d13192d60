"""The report's page: what stands in it for each task, with and without a teacher, and that no text of a user acts in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.evaluation.made import EVIL, TASKS, made_report, rising

from distilmatch.evaluation.pairs.examples import shown_text
from distilmatch.evaluation.pairs.html import render_html
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.evaluation.pairs.what_now import what_now

_VOID = {"meta", "path", "circle", "rect", "polyline", "br"}


class _Page(HTMLParser):
    """What a browser would see: elements, attributes, headings, and the text by itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            return
        self.text += data
        if self._open and re.fullmatch("h[1-6]", self._open[-1]):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)

    @property
    def sections(self) -> list[str]:
        return [text for level, text in self.headings if level == 2]


def _checked(report: PairReport) -> _Page:
    """The page, after what holds of every one."""
    page = render_html(report)
    seen = _Page(page)
    assert page.startswith("<!DOCTYPE html>") or page.lstrip().startswith("<!DOCTYPE html>")
    assert ("lang", "en") in seen.attributes and seen.tags.count("h1") == 1
    assert not {"script", "link", "img", "iframe", "object", "a"} & set(seen.tags)
    for name, value in seen.attributes:
        assert name not in ("src", "href", "xlink:href") and not name.startswith("on")
        assert name == "title" or not re.search(r"(https?:)?//", value or "")
    assert "url(" not in page and "@import" not in page
    levels = [level for level, _ in seen.headings]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False)), seen.headings
    assert page.count('role="img"') == len(re.findall(r'<svg class="plot"[^>]*>\s*<title>[^<]+</title>', page))
    for advice in what_now(report):
        assert advice.text.replace("`", "") in seen.text
    return seen


@pytest.mark.parametrize("kind", TASKS)
def test_a_page_beside_a_teacher(kind: str, tiny_encoder: Path) -> None:
    report = made_report(tiny_encoder, kind, teacher_noise=0.5)
    page = _checked(report)
    by_class = kind in ("classification", "binary")
    expected = ["Quality", "What now", *(["Classes: gold against predicted"] if by_class else [])]
    expected += ["Queries"] if kind == "ranking" else []
    expected += ["Scores, student against teacher", "Worst disagreements with the teacher", "Training", "Speed"]
    assert page.sections == [*expected, "Cache, for each text", "How to read this"]
    value = report.student.metrics[report.main_metric or ""]
    low, high = report.student.metric_intervals[report.main_metric or ""]
    assert f"{value:.4f}" in page.text and f"({low:.3f} to {high:.3f})" in page.text
    assert "Speed was not measured" in page.text and "no log of its training" in page.text
    details = report.details
    assert details is not None and details.scatter is not None and len(details.scatter.student) == 240
    worst = details.worst_rows[0]
    assert worst.teacher is not None and worst.teacher.score != worst.student.score
    assert len({row.texts for row in details.worst_rows}) == len(details.worst_rows) == 20
    assert f"{worst.student.score:.3f}" in page.text and f"{worst.teacher.score:.3f}" in page.text
    assert all(text in page.text or text[:200] in page.text for row in details.worst_rows for text in row.texts)


@pytest.mark.parametrize("kind", TASKS)
def test_a_page_without_a_teacher_says_what_it_lacks(kind: str, tiny_encoder: Path) -> None:
    page = _checked(made_report(tiny_encoder, kind, teacher_noise=None, gold="nobody"))
    assert "There is no teacher in this report" in page.text
    assert "Scores, student against teacher" not in page.sections
    assert ("Worst disagreements with the gold labels" in page.sections) == (kind != "ranking")
    assert page.headings[0] == (1, "The student")


def test_a_page_without_labels(tiny_encoder: Path) -> None:
    page = _checked(made_report(tiny_encoder, "classification", gold="none"))
    assert "No row has a gold label" in page.text
    assert "Classes: gold against predicted" not in page.sections


def test_texts_are_shown_and_do_nothing(tiny_encoder: Path) -> None:
    report = made_report(tiny_encoder, "ranking", teacher_noise=2.0, gold="teacher")
    details = report.details
    assert details is not None
    rows = tuple(row.replaced(texts=("<img src=x onerror=alert(1)>", EVIL[:300])) for row in details.worst_rows[:1])
    hostile = details.model_copy(update={"worst_rows": rows})
    report = report.model_copy(update={"details": hostile, "model": "</code><script>x</script>"})
    page = _checked(report)
    assert "<script>alert(1)</script> & \"quoted\" 'text'" in page.text and "<img src=x" in page.text
    assert "</code><script>x</script>" in page.text
    titles = [value for name, value in page.attributes if name == "title" and value]
    assert any(title.startswith("<script>alert(1)</script>") and len(title) > 280 for title in titles)


def test_very_long_and_unprintable_texts_are_cut() -> None:
    assert shown_text("x" * 5000) == "x" * 1999 + "…"
    assert shown_text("a\x00b\x1bc\td") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\td"


def test_the_confusion_counts_gold_by_predicted(tiny_encoder: Path) -> None:
    report = made_report(tiny_encoder, "binary", teacher_noise=1.0)
    assert report.details is not None and report.details.confusion is not None
    for system in (report.student, report.teacher):
        assert system is not None
        (right_0, wrong_0), (wrong_1, right_1) = report.details.confusion.counts[system.role]
        assert right_0 + wrong_0 + wrong_1 + right_1 == report.rows
        assert (right_0 + right_1) / report.rows == pytest.approx(system.metrics["accuracy"])
        assert 2 * right_1 / (2 * right_1 + wrong_0 + wrong_1) == pytest.approx(system.metrics["f1"])


def test_worst_queries_are_ranked_as_the_metric_has_it(tiny_encoder: Path) -> None:
    report = made_report(tiny_encoder, "ranking", teacher_noise=2.0, gold="teacher")
    assert report.details is not None and report.details.query_spread is not None
    spread, queries = report.details.query_spread, report.details.worst_queries
    values = [query.metrics["student"]["ndcg@10"] for query in queries]
    assert values == sorted(values) and values[0] == pytest.approx(spread.quantiles["student"][0])
    for query in queries:
        first = min((text.student_rank for text in query.ranked if text.relevance > 0), default=0)
        assert query.metrics["student"]["mrr@10"] == pytest.approx(1 / first if first else 0.0)
        assert [text.student_rank for text in query.ranked][:5] == [1, 2, 3, 4, 5]


def test_curves_and_the_kernel_are_shown(tiny_encoder: Path) -> None:
    report = made_report(tiny_encoder, "binary", measure_speed=True)
    report = report.model_copy(update={"curves": (rising("stage1"), rising("stage2"))})
    page, speed = _checked(report), report.speed
    assert speed is not None and speed.kernel is not None and speed.kernel_difference is not None
    assert f"take the kernel {speed.kernel_why}" in page.text
    assert (3, "Stage 1") in page.headings and (3, "Stage 2") in page.headings
    assert "best 0.7500 at step 400" in page.text
    flat = report.flat_metrics()
    assert flat["student_kernel_pairs_per_s"] == speed.cached_pairs_per_s > 0
    assert flat["kernel_difference"] == speed.kernel_difference < 1
    if speed.kernel.startswith("native"):
        assert "student, compiled kernel" in page.text


def test_it_is_saved_beside_the_figures_and_made_again_from_them(tiny_encoder: Path, tmp_path: Path) -> None:
    report = made_report(tiny_encoder, "classification", teacher_noise=0.5)
    report.save(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert render_html(PairReport.load(tmp_path)) == page
