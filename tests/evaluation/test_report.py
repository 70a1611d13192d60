"""The report: its figures are those of the metrics, it survives saving, and it says what it could not measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import CacheError, ConfigError, DataError, ModelError
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.metrics import task_metrics
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.types import TupleTable

TASK = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    torch.manual_seed(0)
    shape = StudentConfig(width=16, head_heads=2, kept_tokens=(3, 5), max_lengths=(16, 16))
    model = DiPair.from_encoder(tiny_encoder, shape, TASK).eval()
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    return model


def _table(gold: bool = True, rows: int = 40) -> TupleTable:
    rng = np.random.default_rng(0)
    words = "red blue green car house dog runs small".split()
    texts = list(dict.fromkeys(" ".join(rng.choice(words, 4)) for _ in range(30)))
    return TupleTable(
        texts=texts,
        rows=rng.integers(0, len(texts), (rows, 2)),
        gold=rng.integers(0, 3, rows).astype(np.float32) if gold else None,
    )


def test_the_figures_are_those_of_the_metrics(student: DiPair, tiny_cross_encoder_3: Path) -> None:
    table, teacher = _table(), CrossEncoderTeacher(tiny_cross_encoder_3, precision="fp32")
    guesses = np.random.default_rng(1).normal(size=(len(table), 3)).astype(np.float32)
    report = evaluate_pairs(student, table, teacher=teacher, baselines={"guess": guesses}, measure_speed=False)
    flat = report.flat_metrics()
    assert table.gold is not None
    own, asked = student.logits(table.tuples()), teacher.logits(table.tuples())  # type: ignore[arg-type]
    for name, logits in (("student", own), ("teacher", asked), ("baseline_guess", guesses)):
        expected = task_metrics(TASK, table.gold, logits)["accuracy"]
        assert flat[f"{name}_accuracy"] == pytest.approx(expected)
    assert flat["share_of_teacher"] == pytest.approx(flat["student_accuracy"] / flat["teacher_accuracy"])
    assert flat["student_teacher_agreement"] == pytest.approx(float((own.argmax(1) == asked.argmax(1)).mean()))
    assert report.speed is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_student_and_teacher_run_in_one_precision(
    precision: Literal["fp32", "bf16"], student: DiPair, tiny_cross_encoder_3: Path
) -> None:
    other = "bf16" if precision == "fp32" else "fp32"
    teacher = CrossEncoderTeacher(tiny_cross_encoder_3, precision=other)
    report = evaluate_pairs(student, _table(), teacher=teacher, measure_speed=False, resamples=0, precision=precision)
    assert report.student_numbers == report.teacher_numbers == precision and teacher.precision == other
    assert f"Student and teacher ran in {precision}." in report.notes
    assert report.details is not None and report.details.scatter is not None
    asked = CrossEncoderTeacher(tiny_cross_encoder_3, precision=precision).logits(_table().tuples())  # type: ignore[arg-type]
    probabilities = torch.from_numpy(asked).softmax(1).max(1).values.numpy()
    np.testing.assert_allclose(report.details.scatter.teacher, probabilities, atol=1e-4)
    given = evaluate_pairs(student, _table(), teacher_logits=asked, measure_speed=False, resamples=0)
    assert given.teacher_numbers is None and "labels were given with the table" in given.notes[0]


def test_a_damaged_training_log_is_noted(student: DiPair, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path)
    (tmp_path / "training.json").write_text("{")
    report = evaluate_pairs(DiPair.from_pretrained(tmp_path), _table(), measure_speed=False, resamples=0)
    assert report.curves == () and any("training.json" in note for note in report.notes)
    assert report.model == str(tmp_path)


def test_saved_and_loaded_it_is_the_same(student: DiPair, tmp_path: Path) -> None:
    report = evaluate_pairs(student, _table(), measure_speed=False)
    report.save(tmp_path)
    assert PairReport.load(tmp_path) == report == PairReport.load(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["metrics"] == report.flat_metrics()
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "report.md").read_text()
    assert f"{report.flat_metrics()['student_accuracy']:.4f}" in text and "report.png" in text


def test_speed_is_measured_and_the_cache_counted(student: DiPair, tiny_cross_encoder_3: Path) -> None:
    report = evaluate_pairs(student, _table(rows=12), teacher=CrossEncoderTeacher(tiny_cross_encoder_3))
    assert report.speed is not None and report.speed.teacher_pairs_per_s is not None
    assert report.speed.head_pairs_per_s > report.speed.end_to_end_pairs_per_s > 0
    left, right = report.cache
    assert (left.kept_tokens, right.kept_tokens) == (3, 5)
    assert left.fp16_bytes < left.fp32_bytes < right.fp32_bytes


def test_without_gold_labels_agreement_is_what_is_left(student: DiPair, tiny_cross_encoder_3: Path) -> None:
    teacher = CrossEncoderTeacher(tiny_cross_encoder_3)
    report = evaluate_pairs(student, _table(gold=False), teacher=teacher, measure_speed=False)
    assert report.main_metric is None and report.share_of_teacher is None
    assert "agreement" in report.student.agreement


def test_what_cannot_be_measured_is_refused(student: DiPair, tiny_cross_encoder: Path) -> None:
    with pytest.raises(DataError, match="neither gold labels nor"):
        evaluate_pairs(student, _table(gold=False))
    with pytest.raises(DataError, match="no rows"):
        evaluate_pairs(student, _table().take(np.array([], dtype=int)))
    with pytest.raises(ConfigError, match=r"gives 1 label\(s\), the task classification needs 3 \(no, maybe, yes\)"):
        evaluate_pairs(student, _table(), teacher=CrossEncoderTeacher(tiny_cross_encoder))
    with pytest.raises(ModelError, match="shape"):
        evaluate_pairs(student, _table(), teacher_logits=np.zeros((40, 2), dtype=np.float32))
    with pytest.raises(ConfigError, match="shape"):
        evaluate_pairs(student, _table(), baselines={"short": np.zeros((3, 3), dtype=np.float32)})
    with pytest.raises(DataError):
        PairReport.load("no-such-folder")


@pytest.mark.parametrize("wrong", [3.0, -1.0, 0.5])
def test_gold_classes_that_do_not_fit_are_refused_before_the_work(
    student: DiPair, tiny_cross_encoder_3: Path, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _table()
    assert table.gold is not None
    table.gold[7] = wrong
    teacher = CrossEncoderTeacher(tiny_cross_encoder_3)
    monkeypatch.setattr(CrossEncoderTeacher, "logits", lambda *_: pytest.fail("it was asked"))
    with pytest.raises(DataError, match="class indices from 0 to 2"):
        evaluate_pairs(student, table, teacher=teacher)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"metrics": ' * 100_000, "null", "[]", "{}", '"x"', '{"metrics": {}, "rows": "many"}', "{"]
)
def test_a_damaged_report_is_refused_in_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises((DataError, ConfigError), match=r"report\.json"):
        PairReport.load(tmp_path)


def test_a_report_that_cannot_be_written_is_said(student: DiPair, tmp_path: Path) -> None:
    report = evaluate_pairs(student, _table(), measure_speed=False, resamples=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="cannot write"):
        report.save(tmp_path / "file")
