"""The page of a fine-tuning: every figure of the record stands on it, texts are escaped, and nothing is loaded."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distilmatch.errors import DataError
from distilmatch.evaluation.teachers.page import teacher_page, write_teacher_page
from distilmatch.files import write_json


def _try(name: str, kind: str, value: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "steps": 1234,
        "seconds": 90.0,
        "metric": "average_precision",
        "metrics": {"average_precision": value, "f1": 0.5},
        "kept": True,
        "chosen": False,
        "history": [{"epoch": 1.0, "average_precision": 0.4}, {"epoch": 2.0, "average_precision": value}],
        "loss": [[1.0, 0.6], [2.0, 0.3]],
        **more,
    }


def _record(**changes: Any) -> dict[str, Any]:
    record = {
        "task": {"kind": "binary"},
        "config": {"base_model": "a <b> model"},
        "rows": 6144,
        "chosen": {
            "readout": "mean",
            "learning_rate": 0.0002,
            "dropout": "model",
            "encoder_layers": None,
            "balanced": False,
            "max_length": 96,
            "epochs": 6.5,
        },
        "metric_for_best": "average_precision",
        "dev": {"average_precision": 0.8765, "f1": 0.5},
        "baselines": {"TF-IDF <cosine>": {"average_precision": 0.4321}},
        "tries": [
            _try("twice the learning rate", "short", 0.7111),
            _try("half the learning rate", "short", 0.6222, kept=False),
            _try("the best & all", "whole", 0.8765, chosen=True),
        ],
    }
    return record | changes


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href")]
        self.loaded += [tag] if tag in ("script", "link", "iframe") else []


def test_the_page_shows_what_was_tried_and_chosen(tmp_path: Path) -> None:
    write_json(tmp_path / "fine_tuning.json", _record())
    page = write_teacher_page(tmp_path).read_text(encoding="utf-8")
    for text in (
        "0.8765",
        "0.7111",
        "0.6222",
        "0.4321",
        "6,144",
        "1,234",
        "1.5",
        "0.0002",
        "the base model&#39;s",
        "96",
    ):
        assert text in page, text
    assert "a &lt;b&gt; model" in page and "TF-IDF &lt;cosine&gt;" in page and "the best &amp; all" in page
    assert page.count("<svg") == 2 and page.count("<polyline") == 2
    links = _Links()
    links.feed(page)
    assert links.loaded == []


def test_a_teacher_without_dev_or_search_has_a_page(tmp_path: Path) -> None:
    alone = _try("the usual settings", "whole", 0.0, metric=None, metrics=None, history=[], chosen=True)
    record = _record(tries=[alone])
    for name in ("metric_for_best", "dev", "baselines"):
        del record[name]
    write_json(tmp_path / "fine_tuning.json", record)
    page = teacher_page(tmp_path)
    assert "no dev table" in page and "Short trainings" not in page and page.count("<svg") == 1


def test_a_warning_is_on_the_page(tmp_path: Path) -> None:
    write_json(tmp_path / "fine_tuning.json", _record(warning="The teacher is no better than TF-IDF."))
    assert "no better than TF-IDF" in teacher_page(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"tries": []}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "fine_tuning.json").write_text(content)
    with pytest.raises(DataError, match=r"fine_tuning\.json"):
        teacher_page(tmp_path)
