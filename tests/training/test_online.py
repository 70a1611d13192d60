"""A teacher that learns beside its student: what each of the two learns, and that a stopped run goes on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import Stopped
from tests.training.test_distil import recipe as recipe
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from distilmatch import CrossEncoderTeacher, ObjectiveConfig, PairRecipe, TaskConfig
from distilmatch.config.online import OnlineTeacherConfig
from distilmatch.errors import ConfigError, MissingExtraError
from distilmatch.teachers.classes import InTaskOrder
from distilmatch.teachers.online import OnlineTeacher
from distilmatch.training.pairs import trainer as module
from distilmatch.training.pairs.distil import distil_pairs
from distilmatch.training.pairs.online import MATRICES, TeacherBeside

PAIRS = [("the red car", "a red car is small"), ("book", "a blue house"), ("the green dog is small", "a lamp")]
installed = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


def _with(recipe: PairRecipe) -> PairRecipe:
    assert recipe.teacher is not None
    stages = {name: getattr(recipe, name).replaced(epochs=1, evaluations=2) for name in ("stage1", "stage2")}
    online = OnlineTeacherConfig(learning_rate=1e-2, rank=2)
    return recipe.replaced(
        start="encoder",
        teacher=recipe.teacher.replaced(online=online),
        transfer=recipe.transfer.replaced(rounds=1),
        **stages,
    )


@installed
def test_it_begins_as_the_teacher_and_leaves_it_alone(tiny_cross_encoder_3: Path) -> None:
    teacher = CrossEncoderTeacher(str(tiny_cross_encoder_3), precision="fp32", batch_size=2)
    labels, fingerprint = teacher.logits(PAIRS), teacher.fingerprint
    for given, expected in (
        (teacher, labels),
        (InTaskOrder(teacher, np.array([2, 0, 1]), ("a", "b", "c")), labels[:, [2, 0, 1]]),
    ):
        online = OnlineTeacher(given, OnlineTeacherConfig(), "cpu")
        np.testing.assert_allclose(online(PAIRS).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.SGD(online.matrices().values(), lr=1.0)
    for _ in range(2):
        online(PAIRS)[:, 0].sum().backward()
        optimizer.step()
    assert not np.allclose(online(PAIRS).detach().numpy(), expected, atol=1e-4)
    assert all("lora" in name for name in online.matrices())
    assert teacher.fingerprint == fingerprint
    np.testing.assert_array_equal(teacher.logits(PAIRS), labels)


@installed
def test_its_loss_is_the_gold_labels_and_a_pull_to_the_student(tiny_cross_encoder: Path) -> None:
    teacher = CrossEncoderTeacher(str(tiny_cross_encoder), precision="fp32")
    online = OnlineTeacher(teacher, OnlineTeacherConfig(gamma=0.3), "cpu")
    beside = TeacherBeside(online, [], TaskConfig(kind="binary"), ObjectiveConfig(gold_weight=0.7), 1.0)
    own, student = torch.randn(6, 1).requires_grad_(), torch.randn(6, 1).requires_grad_()
    gold = torch.tensor([1.0, 0.0, float("nan"), 1.0, float("nan"), 0.0])
    loss = beside.loss(own, student, {"gold": gold, "queries": None, "blocks": None})
    known = ~gold.isnan()
    expected = binary_cross_entropy_with_logits(own[known, 0], gold[known])
    for p, q in zip(own[:, 0], torch.sigmoid(student[:, 0].detach()), strict=True):
        expected = expected - 0.3 * (q * logsigmoid(p) + (1 - q) * logsigmoid(-p)) / 6
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, own, retain_graph=True)[0], torch.autograd.grad(expected, own)[0]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.grad(loss, student, allow_unused=True)[0] is None  # the student does not learn from it


@installed
def test_a_run_has_both_learn_and_resumes(recipe: PairRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _with(recipe)
    seen: list[float] = []
    original = TeacherBeside.labels

    def watched(self: Any, rows: torch.Tensor) -> torch.Tensor:
        logits = original(self, rows)
        seen.append(float(logits.detach().std()))
        return logits

    monkeypatch.setattr(TeacherBeside, "labels", watched)
    whole = distil_pairs(own)
    matrices = load_file(Path(own.output) / "stage2" / MATRICES)
    assert seen and any(weight.abs().max() > 0 for name, weight in matrices.items() if "lora_B" in name)
    assert not (Path(own.output) / "stage1" / MATRICES).exists()  # frozen encoders: the labels that are kept
    again = own.replaced(output=f"{own.output}-again")
    compute, calls = module.BlockTrainer.compute_loss, {"steps": 0}
    first = len(seen)

    def breaks(self: Any, *args: object, **kwargs: object) -> object:
        calls["steps"] += self.beside is not None
        if calls["steps"] == first - 1 and self.beside is not None:
            raise Stopped
        return compute(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module.BlockTrainer, "compute_loss", breaks)
    with pytest.raises(Stopped):
        distil_pairs(again)
    resumed = distil_pairs(again)
    assert len(seen) < 3 * first - 2  # it went on and did not start anew
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)
    for name, value in load_file(Path(again.output) / "stage2" / MATRICES).items():
        torch.testing.assert_close(value, matrices[name], rtol=1e-5, atol=1e-6)


def test_what_cannot_learn(recipe: PairRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _with(recipe)
    assert own.teacher is not None
    with pytest.raises(ConfigError, match="online` learns from gold labels"):
        own.replaced(table={"text_columns": ["a", "b"]})
    with pytest.raises(ConfigError, match="is of one model"):
        own.replaced(teacher=own.teacher.replaced(models=("a", "b")))
    with pytest.raises(ConfigError, match="this teacher is a FunctionTeacher"):
        distil_pairs(own, teacher=lambda pairs: [0.0] * len(pairs))
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(MissingExtraError, match=r"peft is not installed.*distilmatch\[lora\]"):
        distil_pairs(own)
