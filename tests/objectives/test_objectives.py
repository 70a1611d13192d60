"""Every objective against a slow loop written from its formula, on random input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.objectives import (
    check_soft_labels,
    decoupled_kl,
    distillation_loss,
    gold_loss,
    listwise_kl,
    logit_mse,
    margin_mse,
    objective_kind,
    skewed_kl,
    soft_binary_cross_entropy,
    soft_label_kl,
)

CLASSES = TaskConfig(kind="classification", classes=("a", "b", "c"))
BINARY = TaskConfig(kind="binary")

seeds = st.integers(0, 10_000)
temperatures = st.sampled_from([0.5, 1.0, 3.0])


def _logits(seed: int, rows: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, labels, generator=generator, dtype=torch.float32) * 3
    return student, torch.randn(rows, labels, generator=generator) * 3


def _softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


@given(seeds, temperatures)
def test_soft_label_kl_is_the_mean_divergence(seed: int, temperature: float) -> None:
    student, teacher = _logits(seed, 5, 3)
    expected = 0.0
    for own, target in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = _softmax(target, temperature), _softmax(own, temperature)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 5
    assert soft_label_kl(student, teacher, temperature).item() == pytest.approx(temperature**2 * expected, abs=1e-4)


@given(seeds, temperatures, st.sampled_from([0.0, 1.0, 4.0]))
def test_decoupled_kl_is_the_target_class_and_the_others_apart(seed: int, temperature: float, weight: float) -> None:
    student, teacher = _logits(seed, 5, 4)
    expected = 0.0
    for own, target in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = _softmax(target, temperature), _softmax(own, temperature)
        best = target.index(max(target))
        others = [k for k in range(4) if k != best]
        expected += p[best] * math.log(p[best] / q[best]) + (1 - p[best]) * math.log((1 - p[best]) / (1 - q[best]))
        for k in others:
            ours, theirs = q[k] / (1 - q[best]), p[k] / (1 - p[best])
            expected += weight * theirs * math.log(theirs / ours)
    actual = decoupled_kl(student, teacher, temperature, weight).item()
    assert actual == pytest.approx(temperature**2 * expected / 5, rel=1e-3, abs=1e-3)


@given(seeds, temperatures, st.sampled_from([0.0, 0.1, 0.5]))
def test_skewed_kl_is_the_divergence_from_a_mixture(seed: int, temperature: float, skew: float) -> None:
    student, teacher = _logits(seed, 5, 3)
    expected = 0.0
    for own, target in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = _softmax(target, temperature), _softmax(own, temperature)
        expected += sum(a * math.log(a / (skew * a + (1 - skew) * b)) for a, b in zip(p, q, strict=True)) / 5
    actual = skewed_kl(student, teacher, temperature, skew).item()
    assert actual == pytest.approx(temperature**2 * expected, rel=1e-3, abs=1e-4)


@given(seeds, temperatures, st.floats(0.1, 20))
def test_soft_binary_cross_entropy(seed: int, temperature: float, match_weight: float) -> None:
    student, teacher = _logits(seed, 5, 1)
    expected = 0.0
    for own, target in zip(student[:, 0].tolist(), teacher[:, 0].tolist(), strict=True):
        p, q = 1 / (1 + math.exp(-target / temperature)), 1 / (1 + math.exp(-own / temperature))
        weight = 1 + (match_weight - 1) / (1 + math.exp(-target))
        expected -= weight * (p * math.log(q) + (1 - p) * math.log(1 - q)) / 5
    actual = soft_binary_cross_entropy(student, teacher, temperature, match_weight).item()
    assert actual == pytest.approx(temperature**2 * expected, rel=1e-4, abs=1e-5)


def test_weighted_matches_leave_the_best_student_where_it_is() -> None:
    _, teacher = _logits(0, 6, 1)
    student = teacher.clone().requires_grad_()
    soft_binary_cross_entropy(student, teacher, 1.0, 8.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and student.grad.abs().max() < 1e-6


@given(seeds, st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_margin_mse_is_the_mean_over_pairs_of_one_query(seed: int, queries: list[int]) -> None:
    student, teacher = _logits(seed, len(queries), 1)
    differences = []
    for i in range(len(queries)):
        for j in range(len(queries)):
            if i != j and queries[i] == queries[j]:
                own, target = student[i, 0] - student[j, 0], teacher[i, 0] - teacher[j, 0]
                differences.append(((own - target) ** 2).item())
    expected = sum(differences) / len(differences) if differences else 0.0
    assert margin_mse(student, teacher, torch.tensor(queries)).item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@given(seeds, st.lists(st.integers(0, 3), min_size=2, max_size=12), temperatures)
def test_listwise_kl_is_the_mean_over_queries(seed: int, queries: list[int], temperature: float) -> None:
    student, teacher = _logits(seed, len(queries), 1)
    divergences = []
    for query in set(queries):
        rows = [row for row, own in enumerate(queries) if own == query]
        if len(rows) > 1:
            p = _softmax([teacher[row, 0].item() / temperature for row in rows])
            q = _softmax([student[row, 0].item() / temperature for row in rows])
            divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    expected = temperature**2 * sum(divergences) / max(1, len(divergences))
    actual = listwise_kl(student, teacher, torch.tensor(queries), temperature).item()
    assert actual == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("loss", [soft_label_kl, logit_mse])
def test_a_perfect_student_has_no_loss_and_others_have(loss: object) -> None:
    student, teacher = _logits(0, 8, 3)
    assert loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)  # type: ignore[operator]
    assert loss(student, teacher).item() > 0.1  # type: ignore[operator]


def test_margins_ignore_a_shift_of_a_query() -> None:
    _, teacher = _logits(1, 6, 1)
    queries = torch.tensor([0, 0, 0, 1, 1, 1])
    assert margin_mse(teacher + 5.0, teacher, queries).item() == pytest.approx(0.0, abs=1e-4)


def test_gradient_flows_to_the_student_alone() -> None:
    student, teacher = _logits(2, 6, 1)
    student.requires_grad_()
    teacher.requires_grad_()
    queries = torch.tensor([0, 0, 1, 1, 2, 2])
    config = ObjectiveConfig(kind="margin_mse")
    distillation_loss(student, teacher.detach(), TaskConfig(kind="ranking"), config, queries=queries).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_gold_counts_labelled_rows_only() -> None:
    student, _ = _logits(3, 4, 3)
    gold = torch.tensor([1.0, float("nan"), 2.0, float("nan")])
    expected = torch.nn.functional.cross_entropy(student[[0, 2]], torch.tensor([1, 2]))
    assert gold_loss(student, gold, CLASSES).item() == pytest.approx(expected.item())
    assert gold_loss(student, torch.full((4,), float("nan")), CLASSES).item() == 0.0


def test_regression_gold_is_scaled_to_its_range() -> None:
    task = TaskConfig(kind="regression", label_range=(0, 5))
    logits = torch.logit(torch.tensor([[0.4], [0.9]]))
    assert gold_loss(logits, torch.tensor([2.0, 4.5]), task) < gold_loss(logits, torch.tensor([4.5, 2.0]), task)


@given(seeds, st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=9), st.sampled_from([3.0, 4.0]))
def test_a_rows_target_does_not_depend_on_its_batch(seed: int, grades: list[float], highest: float) -> None:
    student = _logits(seed, len(grades), 1)[0].requires_grad_()
    gold_loss(student, torch.tensor(grades), TaskConfig(kind="ranking"), highest).backward()
    # Of a binary cross-entropy the gradient is (sigmoid of the logit - target) over the rows.
    targets = torch.sigmoid(student.detach()[:, 0]) - student.grad[:, 0] * len(grades)  # type: ignore[index]
    torch.testing.assert_close(targets, torch.tensor(grades) / highest, rtol=0, atol=1e-5)


def test_a_grade_above_the_highest_counts_as_it() -> None:
    student, ranking = torch.zeros(1, 1), TaskConfig(kind="ranking")
    above = gold_loss(student, torch.tensor([7.0]), ranking, 3.0)
    assert above.item() == gold_loss(student, torch.tensor([3.0]), ranking, 3.0).item()


def test_the_mixture_is_what_the_config_says() -> None:
    student, teacher = _logits(4, 6, 3)
    gold = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])
    mixed = distillation_loss(student, teacher, CLASSES, ObjectiveConfig(gold_weight=0.3), gold)
    expected = 0.7 * soft_label_kl(student, teacher) + 0.3 * gold_loss(student, gold, CLASSES)
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("kind", "task"), [("kl", BINARY), ("bce", CLASSES), ("margin_mse", CLASSES)])
def test_an_objective_that_does_not_fit_the_task_is_refused(kind: str, task: TaskConfig) -> None:
    with pytest.raises(ConfigError, match=kind):
        objective_kind(ObjectiveConfig(kind=kind), task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "scores", "warned"),
    [
        ("bce", [12.0, 14.0, 17.0, 21.0], True),  # a reranker trained on margins
        ("bce", [-9.0, -2.0, 0.5, 6.0], False),
        ("auto", [12.0, 14.0, 17.0, 21.0], False),  # listwise
        ("bce", [3.0, 3.0, 3.0, 3.0], False),  # nothing to rank anyway
    ],
)
def test_scores_that_are_no_log_odds_are_told(
    kind: str, scores: list[float], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = ObjectiveConfig.from_dict({"kind": kind})
    check_soft_labels(config, TaskConfig(kind="ranking"), np.float32(scores)[:, None])
    assert ("listwise" in caplog.text) == warned
