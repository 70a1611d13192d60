"""A teacher's classes are matched with a task's by name: reordered, or refused with both lists."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, ModelError
from distilmatch.evaluation.pairs.measure import evaluate_pairs
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher, SoftLabelCache, TeacherEnsemble, in_task_order, label_order
from distilmatch.types import TupleTable

NAMES = ("contradiction", "entailment", "neutral")
PAIRS = [("the red car", "a blue car"), ("a dog", "the dog eats bread"), ("red", "red"), ("a man", "a tall man runs")]


class Named:
    """A teacher of fixed classes, whose logit of a class follows from the class and the pair, not from where it stands."""

    def __init__(self, names: tuple[str, ...] | None, fingerprint: str = "one", labels: int | None = None) -> None:
        self.class_names = names
        self.num_labels = labels or len(names or ())
        self.fingerprint = fingerprint + str(names)
        self.asked = 0

    def logits(self, pairs: list[tuple[str, str]], show_progress_bar: bool | None = None) -> np.ndarray:
        self.asked += len(pairs)
        names = self.class_names or tuple(map(str, range(self.num_labels)))
        return expected(pairs, names)


def expected(pairs: list[tuple[str, str]], names: tuple[str, ...]) -> np.ndarray:
    rows = [[len(left) + 100 * sum(map(ord, name.casefold())) + len(right) for name in names] for left, right in pairs]
    return np.array(rows, dtype=np.float32)


def _task(*classes: str) -> TaskConfig:
    return TaskConfig(kind="classification", classes=classes)


@pytest.mark.parametrize("classes", list(itertools.permutations(NAMES)))
def test_every_order_is_brought_into_the_tasks(classes: tuple[str, ...], tmp_path: Path) -> None:
    teacher = in_task_order(Named(NAMES), _task(*classes))
    assert teacher.class_names == classes
    np.testing.assert_array_equal(teacher.logits(PAIRS), expected(PAIRS, classes))
    # And so are cached labels, which stand there in the teacher's order: tasks of all orders share them.
    own = Named(NAMES)
    cache = SoftLabelCache(tmp_path)
    raw = cache.label(own, PAIRS)
    np.testing.assert_array_equal(raw, expected(PAIRS, NAMES))
    np.testing.assert_array_equal(cache.label(in_task_order(own, _task(*classes)), PAIRS), expected(PAIRS, classes))
    np.testing.assert_array_equal(
        cache.label(in_task_order(own, _task(*classes[::-1])), PAIRS), expected(PAIRS, classes[::-1])
    )
    np.testing.assert_array_equal(cache.label(own, PAIRS), raw)
    assert own.asked == len(PAIRS) == len(cache)
    assert cache.count(in_task_order(own, _task(*classes)), PAIRS) == len(PAIRS)


def test_labels_cached_in_the_tasks_order_are_kept_in_the_teachers(tmp_path: Path) -> None:
    own, cache, task = Named(NAMES), SoftLabelCache(tmp_path), _task("neutral", "contradiction", "entailment")
    np.testing.assert_array_equal(cache.label(in_task_order(own, task), PAIRS), expected(PAIRS, task.classes))
    np.testing.assert_array_equal(cache.label(own, PAIRS), expected(PAIRS, NAMES))
    assert own.asked == len(PAIRS)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("ENTAILMENT", "Neutral", "contradiction"), ("contradiction", "entailment", "neutral")),
        (("not entailment", "entailment"), ("entailment", "not_entailment")),
        (("not-entailment", "entailment"), ("entailment", "Not Entailment")),
        (("a b", "a_b"), ("a_b", "a b")),  # alike but for what is between the words: exact
        (("LABEL_1", "LABEL_0"), ("LABEL_0", "LABEL_1")),
    ],
)
def test_names_are_matched_in_any_case_and_spelling_of_their_gaps(
    names: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    order = label_order(Named(names), _task(*classes))
    assert order is not None

    def plain(name: str) -> str:
        return name.casefold().replace("_", " ").replace("-", " ")

    assert [plain(names[i]) for i in order] == [plain(name) for name in classes]


def test_default_names_are_names_where_the_task_has_them() -> None:
    order = label_order(Named(None, labels=3), _task("LABEL_2", "LABEL_0", "LABEL_1"))
    assert order is not None and order.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("yes", "no"), ("entailment", "neutral")),
        (("yes", "no"), ("yes", "nope")),
        (("yes", "yes"), ("yes", "no")),
        (("YES", "yes"), ("Yes", "yEs")),  # which is which?
        (("LABEL_1", "LABEL_0"), ("yes", "no")),
        (("0", "yes"), ("no", "yes")),
    ],
)
def test_other_names_are_refused_with_both_lists(names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        label_order(Named(names), _task(*classes))
    assert str(list(names)) in str(error.value) and str(list(classes)) in str(error.value)


def test_another_number_is_refused_with_both_lists() -> None:
    with pytest.raises(
        ConfigError, match=r"gives 2 label\(s\) \(yes, no\), the task classification needs 3 \(a, b, c\)"
    ):
        label_order(Named(("yes", "no")), _task("a", "b", "c"))
    with pytest.raises(ConfigError, match="the task binary needs 1"):
        label_order(Named(("yes", "no")), TaskConfig(kind="binary"))


@pytest.mark.parametrize("names", [None, ("0", "1"), ("LABEL_0", "LABEL_1")])
def test_a_teacher_without_names_goes_by_position_and_that_is_said_once(
    names: tuple[str, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    task = _task(f"good {names}", f"bad {names}")
    with caplog.at_level(logging.WARNING):
        assert label_order(Named(names, labels=2), task) is None
        assert label_order(Named(names, labels=2), task) is None
    assert len(caplog.records) == 1 and "by position" in caplog.text and f"good {names}" in caplog.text


def test_one_label_needs_no_name() -> None:
    assert label_order(Named(("relevance",)), TaskConfig(kind="ranking")) is None


@pytest.mark.parametrize("classes", list(itertools.permutations(NAMES)))
def test_an_ensemble_brings_its_members_into_the_order_of_the_first(classes: tuple[str, ...], tmp_path: Path) -> None:
    first, second, bare = Named(NAMES), Named(classes, "two"), Named(tuple(name.upper() for name in classes), "three")
    ensemble = TeacherEnsemble([first, second, bare])
    assert ensemble.class_names == NAMES
    np.testing.assert_array_equal(ensemble.logits(PAIRS), expected(PAIRS, NAMES))
    turned = TeacherEnsemble([second, first, bare])
    np.testing.assert_array_equal(turned.logits(PAIRS), expected(PAIRS, classes))
    # Labels of the two do not meet in a cache unless they stand in one order.
    cache = SoftLabelCache(tmp_path)
    np.testing.assert_array_equal(cache.label(ensemble, PAIRS), expected(PAIRS, NAMES))
    np.testing.assert_array_equal(cache.label(turned, PAIRS), expected(PAIRS, classes))
    task = _task(*classes)
    np.testing.assert_array_equal(cache.label(in_task_order(ensemble, task), PAIRS), expected(PAIRS, classes))


def test_an_ensemble_of_reordered_teachers_is_not_taken_for_that_of_the_teachers(tmp_path: Path) -> None:
    task, cache = _task("neutral", "contradiction", "entailment"), SoftLabelCache(tmp_path)
    plain, turned = TeacherEnsemble([Named(NAMES)]), TeacherEnsemble([in_task_order(Named(NAMES), task)])
    np.testing.assert_array_equal(cache.label(plain, PAIRS), expected(PAIRS, NAMES))
    np.testing.assert_array_equal(cache.label(turned, PAIRS), expected(PAIRS, task.classes))


def test_an_ensemble_of_other_classes_is_refused_with_both_lists() -> None:
    with pytest.raises(ModelError) as error:
        TeacherEnsemble([Named(NAMES), Named(("yes", "no", "maybe"))])
    assert "entailment" in str(error.value) and "maybe" in str(error.value)
    with pytest.raises(ModelError, match="same number"):
        TeacherEnsemble([Named(NAMES), Named(("yes", "no"))])


def test_one_teacher_is_an_ensemble_and_anything_else_is_named() -> None:
    assert TeacherEnsemble(Named(NAMES)).class_names == NAMES  # type: ignore[arg-type]
    for wrong in ([], "a-folder", [Named(NAMES), "a-folder"]):
        with pytest.raises(ConfigError):
            TeacherEnsemble(wrong)  # type: ignore[arg-type]


def test_what_evaluate_says_of_a_teacher_does_not_depend_on_its_order(
    tiny_encoder: Path, tiny_cross_encoder_3: Path
) -> None:
    classes = ("entailment", "neutral", "contradiction")
    shape = StudentConfig(width=16, head_heads=2, kept_tokens=(3, 5), max_lengths=(16, 16))
    student = DiPair.from_encoder(tiny_encoder, shape, _task(*classes)).eval()
    model = CrossEncoder(str(tiny_cross_encoder_3), device="cpu")
    texts = [text for pair in PAIRS for text in pair]
    rows = np.arange(len(texts)).reshape(-1, 2)
    seen = []
    for names in itertools.permutations(NAMES):
        model.config.id2label = dict(enumerate(names))
        with torch.no_grad():  # it says "entailment", wherever that stands
            model[0].model.classifier.weight.zero_()
            model[0].model.classifier.bias.copy_(torch.tensor([9.0 if name == "entailment" else 0.0 for name in names]))
        report = evaluate_pairs(
            student,
            TupleTable(texts=texts, rows=rows, gold=np.array([0, 0, 1, 2], dtype=np.float32)),
            teacher=CrossEncoderTeacher(model),
            measure_speed=False,
            resamples=0,
        )
        assert report.teacher is not None
        seen.append((report.teacher.metrics["accuracy"], report.student.agreement["agreement"]))
    assert seen == [seen[0]] * 6 and seen[0][0] == 0.5
