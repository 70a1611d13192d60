"""The objectives of related methods against slow loops from their formulas, values and gradients, on random input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.objectives import (
    PairBatch,
    atkd,
    comparative_mse,
    distillation_loss,
    listwise_kl,
    listwise_skewed_kl,
    logit_mse,
    loss_items,
    pair_objective_loss,
    skewed_kl,
    soft_binary_cross_entropy,
)

BINARY, RANKING = TaskConfig(kind="binary"), TaskConfig(kind="ranking")
CLASSES = TaskConfig(kind="classification", classes=("a", "b", "c"))
TWO = TaskConfig(kind="classification", classes=("no", "yes"))

seeds = st.integers(0, 10_000)
temperatures = st.sampled_from([0.5, 1.0, 3.0])
some_queries = st.lists(st.integers(0, 3), min_size=2, max_size=14)
Slow = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _logits(seed: int, rows: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    student, teacher = (torch.from_numpy(3 * rng.normal(size=(rows, labels))).float() for _ in range(2))
    return student.requires_grad_(), teacher


def _same(fast: torch.Tensor, slow: torch.Tensor, student: torch.Tensor) -> None:
    """The same value, and the same gradient of the student's logits; the slow one is computed in double precision."""
    assert fast.item() == pytest.approx(slow.item(), rel=1e-3, abs=1e-4)
    gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (fast, slow)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def _softmax(scores: list[torch.Tensor], temperature: float) -> list[torch.Tensor]:
    powers = [(score.double() / temperature).exp() for score in scores]
    return [power / sum(powers) for power in powers]


def _lists(queries: list[int]) -> list[list[int]]:
    found = [[i for i, query in enumerate(queries) if query == number] for number in sorted(set(queries))]
    return [rows for rows in found if len(rows) >= 2]


def _skewed(p: list[torch.Tensor], q: list[torch.Tensor], skew: float, reverse: bool) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(p, q, strict=True):
        if reverse:
            total = total + b * (b / ((1 - skew) * a + skew * b)).log()
        else:
            total = total + a * (a / (skew * a + (1 - skew) * b)).log()
    return total


@given(seeds, temperatures, st.sampled_from([0.0, 0.1, 0.5]), st.booleans(), st.sampled_from([1, 2, 4]))
def test_both_skews_of_classes(seed: int, temperature: float, skew: float, reverse: bool, labels: int) -> None:
    student, teacher = _logits(seed, 5, labels)
    slow = torch.zeros((), dtype=torch.float64)
    for own, target in zip(student, teacher, strict=True):
        if labels == 1:
            own, target = (torch.cat([torch.zeros(1), score]) for score in (own, target))
        p, q = _softmax(list(target), temperature), _softmax(list(own), temperature)
        slow = slow + temperature**2 * _skewed(p, q, skew, reverse) / 5
    _same(skewed_kl(student, teacher, temperature, skew, reverse=reverse), slow, student)


@given(seeds, some_queries, temperatures, st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_both_skews_of_lists(seed: int, queries: list[int], temperature: float, skew: float, reverse: bool) -> None:
    student, teacher = _logits(seed, len(queries), 1)
    slow, lists = student.double().sum() * 0, _lists(queries)
    for rows in lists:
        p, q = (_softmax([scores[i, 0] for i in rows], temperature) for scores in (teacher, student))
        slow = slow + temperature**2 * _skewed(p, q, skew, reverse) / len(lists)
    numbers = torch.tensor(queries)
    _same(listwise_skewed_kl(student, teacher, numbers, temperature, skew, reverse=reverse), slow, student)
    plain = listwise_kl(student, teacher, numbers, temperature)
    if skew == 0 and not reverse:
        torch.testing.assert_close(listwise_skewed_kl(student, teacher, numbers, temperature, 0.0), plain)


def test_a_skew_stays_finite_where_one_side_has_next_to_nothing() -> None:
    student = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    for reverse in (False, True):
        loss = skewed_kl(student, torch.tensor([[-200.0, 0.0, 200.0]]), reverse=reverse)
        loss.backward()  # type: ignore[no-untyped-call]
        assert 0 < loss.item() <= -math.log(0.1) + 1e-4  # of a skew of 0.1, whatever the logits
        assert torch.isfinite(student.grad).all()  # type: ignore[arg-type]


def test_a_single_label_is_match_and_no_match() -> None:
    student, teacher = _logits(1, 6, 1)
    plain = soft_binary_cross_entropy(student, teacher)
    entropy = soft_binary_cross_entropy(teacher, teacher)
    assert skewed_kl(student, teacher, skew=0.0).item() == pytest.approx((plain - entropy).item(), abs=1e-5)
    config = ObjectiveConfig(kind="skewed_kl", reverse=True)
    chosen = distillation_loss(student, teacher, BINARY, config)
    assert chosen.item() == pytest.approx(skewed_kl(student, teacher, reverse=True).item())
    queries = torch.tensor([0, 0, 0, 1, 1, 1])
    ranked = distillation_loss(student, teacher, RANKING, config, queries=queries)
    assert ranked.item() == pytest.approx(listwise_skewed_kl(student, teacher, queries, reverse=True).item())
    assert loss_items(config, RANKING, 6, queries=queries)[0] == 2
    assert loss_items(config, BINARY, 6, queries=queries)[0] == 6


def _slow_atkd(
    student: torch.Tensor, teacher: torch.Tensor, lists: list[list[int]], temperature: float, weight: float
) -> torch.Tensor:
    """Of flat scores, list by list."""
    parts = []
    for rows in lists:
        p, q = (_softmax([scores[i] for i in rows], temperature) for scores in (teacher, student))
        best = max(range(len(rows)), key=lambda place: (p[place].item(), -place))
        rest_p, rest_q = 1 - p[best], 1 - q[best]
        target = p[best] * (p[best] / q[best]).log() + rest_p * (rest_p / rest_q).log()
        others = [place for place in range(len(rows)) if place != best]
        among = sum(p[k] / rest_p * ((p[k] / rest_p) / (q[k] / rest_q)).log() for k in others)
        parts.append((rest_p.item(), target, among))
    middle = float(np.median([unsure for unsure, *_ in parts]))
    easy = [among for unsure, _, among in parts if unsure < middle]
    hard = [target + among for unsure, target, among in parts if not unsure < middle]
    loss = (1 - weight) * sum(hard) / len(hard)  # type: ignore[arg-type]
    if easy:
        loss = loss + weight * sum(easy) / len(easy)  # type: ignore[arg-type]
    return temperature**2 * loss  # type: ignore[return-value]


@given(seeds, st.integers(1, 9), st.sampled_from([3, 5]), st.sampled_from([1.0, 3.0]), st.sampled_from([0.2, 0.7]))
def test_atkd_of_classes(seed: int, rows: int, labels: int, temperature: float, weight: float) -> None:
    student, teacher = _logits(seed, rows, labels)
    lists = np.arange(rows * labels).reshape(rows, labels).tolist()
    config = ObjectiveConfig(kind="atkd", temperature=temperature, easy_weight=weight)
    task = TaskConfig(kind="classification", classes=tuple("abcde"[:labels]))
    fast = distillation_loss(student, teacher, task, config)
    _same(fast, _slow_atkd(student.reshape(-1), teacher.reshape(-1), lists, temperature, weight), student)


@given(seeds, some_queries, st.sampled_from([1.0, 3.0]))
def test_atkd_of_lists(seed: int, queries: list[int], temperature: float) -> None:
    student, teacher = _logits(seed, len(queries), 1)
    lists, numbers = _lists(queries), torch.tensor(queries)
    fast = atkd(student, teacher, numbers, temperature)
    if not lists:
        assert fast.item() == 0.0
        assert torch.autograd.grad(fast, student)[0].abs().max() == 0
        return
    slow = _slow_atkd(student[:, 0], teacher[:, 0], lists, temperature, 0.2)
    _same(fast, slow, student)
    chosen = distillation_loss(
        student, teacher, RANKING, ObjectiveConfig(kind="atkd", temperature=temperature), queries=numbers
    )
    assert chosen.item() == fast.item()


def test_atkd_has_a_gradient_where_the_teacher_is_sure() -> None:
    student = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[300.0, 1.0, 0.0], [1.0, 0.5, 0.0]])
    distillation_loss(student, teacher, CLASSES, ObjectiveConfig(kind="atkd")).backward()
    assert torch.isfinite(student.grad).all()  # type: ignore[arg-type]
    # The easy row learns how the two others compare, and nothing of its best class.
    assert student.grad[0, 0] == 0 and student.grad[0, 1] < 0 < student.grad[0, 2]  # type: ignore[index]


@pytest.mark.parametrize("task", [BINARY, TWO, TaskConfig(kind="regression")])
def test_atkd_refuses_two_outcomes(task: TaskConfig) -> None:
    student, teacher = _logits(0, 4, task.num_labels)
    with pytest.raises(ConfigError, match="rankings and for three classes or more; use kl, bce or skewed_kl"):
        distillation_loss(student, teacher, task, ObjectiveConfig(kind="atkd"))


@given(seeds, st.lists(st.integers(0, 3), min_size=1, max_size=12), st.sampled_from([0.0, 0.1, 2.0]), st.integers(1, 3))
def test_comparative_is_the_mean_over_pairs_of_pairs(seed: int, blocks: list[int], anchor: float, labels: int) -> None:
    student, teacher = _logits(seed, len(blocks), labels)
    slow = torch.zeros((), dtype=torch.float64)
    for number in set(blocks):
        rows = [i for i, block in enumerate(blocks) if block == number]
        share = len(rows) / len(blocks)
        for i in rows:
            for j in rows:
                wanted = (teacher[i] - teacher[j]).double()
                difference = ((student[i] - student[j]).double() - wanted).square().mean()
                slow = slow + share * difference / len(rows) ** 2
    slow = slow + anchor * (student - teacher).double().square().mean()
    _same(comparative_mse(student, teacher, torch.tensor(blocks), anchor), slow, student)


def test_comparative_compares_over_the_lists_of_a_block() -> None:
    student, teacher = _logits(3, 6, 1)
    blocks, queries = torch.tensor([0, 0, 0, 0, 1, 1]), torch.arange(6)
    batch = PairBatch(logits=student, teacher=teacher, queries=queries, blocks=blocks)
    config = ObjectiveConfig(kind="comparative", anchor=0.5)
    loss = pair_objective_loss(batch, RANKING, config)
    assert loss.item() == pytest.approx(comparative_mse(student, teacher, blocks, 0.5).item())
    shifted = comparative_mse(student + 7, teacher, torch.zeros(6))
    assert shifted.item() == pytest.approx(
        comparative_mse(student, teacher).item(), rel=1e-4
    )  # no level without an anchor
    alone = comparative_mse(student, teacher, torch.arange(6), 1.0)
    assert alone.item() == pytest.approx(logit_mse(student, teacher).item(), rel=1e-5)
