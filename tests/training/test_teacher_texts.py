"""A teacher that learnt texts of another form than those that it is to label."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from distilmatch.files import write_json
from distilmatch.training.checks import check_teacher_texts


@pytest.mark.parametrize(
    ("learnt", "read", "said"),
    [
        (["{title} ; {brand}"], ["{name} ; {maker}"], False),  # the same form
        (["{title} ; {brand}"], None, True),
        (None, ["{title}"], True),
        (None, None, False),
        (["{title} ; {brand}"], ["{title} , {brand}"], True),
        (["{title}"], ["{title}", "{name} {price}"], True),
    ],
)
def test_another_form_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, learnt: list[str] | None, read: list[str] | None, said: bool
) -> None:
    write_json(tmp_path / "fine_tuning.json", {"text_templates": learnt})
    with caplog.at_level(logging.WARNING, logger="distilmatch"):
        check_teacher_texts([str(tmp_path)], read)
    assert bool(caplog.records) == said
    if said:
        assert str(tmp_path) in caplog.text and "another form" in caplog.text


def test_a_teacher_that_does_not_say_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(tmp_path / "fine_tuning.json", {"rows": 3})
    check_teacher_texts([str(tmp_path), "owner/name", str(tmp_path / "none")], ["{title}"])
    (tmp_path / "fine_tuning.json").write_text("{")
    check_teacher_texts([str(tmp_path)], ["{title}"])
    assert not caplog.records
