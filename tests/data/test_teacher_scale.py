"""The teacher's labels of a table: logits, or probabilities that become logits and are said to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import check_table, iter_rows, load_table
from distilmatch.data.teacher_scale import are_probabilities, logits_of
from distilmatch.errors import BadRowsError, ConfigError

NLI = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
AUTO = TableConfig(text_columns=("a", "b"), teacher_columns=("t",))


def _rows(values: list[Any]) -> list[dict[str, Any]]:
    return [{"a": f"a{i}", "b": "b", "t": value} for i, value in enumerate(values)]


def _teacher(values: list[Any], scale: str = "auto", task: TaskConfig | None = None) -> np.ndarray:
    teacher = load_table(_rows(values), AUTO.replaced(teacher_scale=scale), task).teacher
    assert teacher is not None and teacher.dtype == np.float32
    return teacher


def test_probabilities_become_logits_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    found = _teacher([0.1, 0.9, 0.5, 1.0, 0.0])[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-found.astype(float))), [0.1, 0.9, 0.5, 1 - 1e-6, 1e-6], rtol=1e-5)
    said = "teacher column 't' holds probabilities (all within [0, 1]); they become logits. `teacher_scale: logit`"
    assert said in caplog.text
    caplog.clear()
    rows = [[0.1, 0.2, 0.7], [0.3334, 0.3333, 0.3333], [1, 0, 0]]
    found = _teacher(rows, task=NLI)
    again = np.exp(found.astype(float))
    np.testing.assert_allclose(again / again.sum(axis=1, keepdims=True), rows, atol=3e-6)
    assert "each row adds up to 1" in caplog.text


@pytest.mark.parametrize(
    "values",
    [[0.1, 0.9, 1.2], [0.1, -0.1, 1], [0.2, 0.8], [0.0, 0.0, 0.0], [[0.1, 0.2, 0.6]] * 4, [[0, 1, 0], [1, 0.5, 0.3], [0, 0, 1]]],
)  # fmt: skip
def test_what_can_be_logits_is_left_alone(values: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    task = NLI if isinstance(values[0], list) else None
    np.testing.assert_array_equal(
        _teacher(values, task=task), np.array(values, dtype=np.float32).reshape(len(values), -1)
    )
    assert "probabilities" not in caplog.text


def test_what_labels_are_taken_for_is_said_once_a_table(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for values, scale, told, kept in (
        ([0.1, 0.9, 1.2], "auto", "holds logits, which are taken as they are", "logit"),
        ([0.1, 0.9, 0.5], "logit", "holds logits, as `teacher_scale` says", "logit"),
        ([0.1, 0.9, 0.5], "probability", "holds probabilities, as `teacher_scale` says; they become", "probability"),
        ([0.1, 0.9, 0.5], "auto", "holds probabilities (all within [0, 1]); they become logits", "probability"),
    ):
        caplog.clear()
        table = load_table(_rows(values), AUTO.replaced(teacher_scale=scale))
        assert caplog.text.count(f"rows: teacher column 't' {told}") == 1 and table.teacher_scale == kept
    assert load_table(_rows([0.1] * 3), TableConfig(text_columns=("a", "b"))).teacher_scale is None


def test_the_setting_decides(caplog: pytest.LogCaptureFixture) -> None:
    values = [0.1, 0.9, 0.5, 0.25]
    np.testing.assert_array_equal(_teacher(values, "logit")[:, 0], np.float32(values))
    np.testing.assert_array_equal(_teacher(values, "probability"), _teacher(values, "auto"))
    np.testing.assert_allclose(_teacher([0.25], "probability"), [[np.log(1 / 3)]], rtol=1e-6)
    with pytest.raises(BadRowsError, match="row 2: teacher probability 1.5 is not between 0 and 1"):
        _teacher([0.1, 1.5], "probability")
    with pytest.raises(BadRowsError, match="row 1: teacher probabilities add up to 0.9, not 1"):
        check_table(_rows([[0.1, 0.2, 0.6]]), AUTO.replaced(teacher_scale="probability"), NLI)
    with pytest.raises(ConfigError, match="teacher_scale"):
        TableConfig(teacher_scale="odds")


def test_streamed_rows_are_logits_unless_said_otherwise() -> None:
    rows = _rows([0.1, 0.9, 0.5])
    assert [row.teacher for row in iter_rows(rows, AUTO)] == [(0.1,), (0.9,), (0.5,)]
    probability = AUTO.replaced(teacher_scale="probability")
    found = [row.teacher[0] for row in iter_rows(rows, probability)]  # type: ignore[index]
    np.testing.assert_allclose(found, np.log([1 / 9, 9, 1]), atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(-12, 12), min_size=3, max_size=3), min_size=3, max_size=9))
def test_logits_of_probabilities_give_them_back(logits: list[list[float]]) -> None:
    exact = np.exp(np.array(logits))
    softmax = exact / exact.sum(axis=1, keepdims=True)
    assert are_probabilities(softmax) or softmax.min() == softmax.max()
    again = np.exp(logits_of(softmax))
    np.testing.assert_allclose(again / again.sum(axis=1, keepdims=True), softmax, atol=4e-6)
    sigmoid = 1 / (1 + np.exp(-np.array(logits)[:, :1]))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits_of(sigmoid))), sigmoid, atol=2e-6)
