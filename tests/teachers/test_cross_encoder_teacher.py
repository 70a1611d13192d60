"""Teachers give the logits of their CrossEncoder, whatever the batch and the order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from distilmatch.config.pairs import TeacherConfig
from distilmatch.errors import DistilmatchError, ModelError
from distilmatch.teachers import CrossEncoderTeacher, FunctionTeacher, TeacherEnsemble, load_teacher
from distilmatch.teachers.classes import InTaskOrder
from distilmatch.teachers.precision import in_precision, numbers_of

PAIRS = [
    ("the red car", "a blue car"),
    ("a", "the dog eats bread and drinks milk in the house with the man and the woman"),
    ("red", "red"),
    ("a tall man runs", "the man sits on a chair"),
] * 3


@pytest.mark.parametrize("labels", [1, 3])
def test_logits_are_those_of_the_cross_encoder(labels: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("tiny_cross_encoder" if labels == 1 else "tiny_cross_encoder_3")
    teacher = CrossEncoderTeacher(folder, precision="fp32", device="cpu")
    assert teacher.num_labels == labels
    predicted = CrossEncoder(str(folder), device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(teacher.logits(PAIRS), predicted.reshape(len(PAIRS), labels), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batch_size_and_order_do_not_matter(tiny_cross_encoder_3: Path, batch_size: int) -> None:
    teacher = CrossEncoderTeacher(tiny_cross_encoder_3, precision="fp32", batch_size=batch_size)
    alone = np.concatenate([teacher.logits([pair]) for pair in PAIRS])
    order = np.random.default_rng(batch_size).permutation(len(PAIRS))
    np.testing.assert_allclose(teacher.logits([PAIRS[i] for i in order]), alone[order], atol=1e-5)
    assert np.ptp(alone, axis=0).min() > 1e-3  # a constant teacher would pass everything above


def test_bf16_is_close_and_float32_comes_out(tiny_cross_encoder_3: Path) -> None:
    exact = CrossEncoderTeacher(tiny_cross_encoder_3, precision="fp32").logits(PAIRS)
    half = CrossEncoderTeacher(tiny_cross_encoder_3, precision="bf16").logits(PAIRS)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, exact, atol=0.1)


def test_the_same_teacher_in_another_precision(tiny_cross_encoder_3: Path) -> None:
    half = CrossEncoderTeacher(tiny_cross_encoder_3, precision="bf16", max_length=8)
    order = InTaskOrder(TeacherEnsemble([half, half]), np.array([2, 0, 1]), ("a", "b", "c"))
    assert numbers_of(order) == "bf16" == numbers_of(half) and numbers_of(FunctionTeacher(len)) is None
    full = in_precision(order, "fp32")
    expected = CrossEncoderTeacher(tiny_cross_encoder_3, precision="fp32", max_length=8)
    assert numbers_of(full) == "fp32" and half.precision == "bf16"
    assert in_precision(half, "fp32").fingerprint == expected.fingerprint != half.fingerprint
    np.testing.assert_array_equal(full.logits(PAIRS), expected.logits(PAIRS)[:, [2, 0, 1]])
    function = FunctionTeacher(len)
    assert in_precision(function, "fp32") is function


def test_fingerprints_follow_weights_and_settings(tiny_cross_encoder: Path) -> None:
    teacher = CrossEncoderTeacher(tiny_cross_encoder, precision="fp32")
    same = CrossEncoderTeacher(tiny_cross_encoder, precision="fp32", batch_size=3)
    assert teacher.fingerprint == same.fingerprint
    assert CrossEncoderTeacher(tiny_cross_encoder, precision="fp32", max_length=8).fingerprint != teacher.fingerprint
    changed = CrossEncoder(str(tiny_cross_encoder), device="cpu")
    with torch.no_grad():
        next(iter(changed.parameters())).view(-1)[0] += 1
    assert CrossEncoderTeacher(changed, precision="fp32").fingerprint != teacher.fingerprint


def test_an_ensemble_is_the_mean(tiny_cross_encoder: Path, tiny_cross_encoder_3: Path) -> None:
    first = CrossEncoderTeacher(tiny_cross_encoder, precision="fp32")
    second = CrossEncoderTeacher(tiny_cross_encoder, precision="fp32", max_length=8)
    ensemble = TeacherEnsemble([first, second])
    np.testing.assert_allclose(ensemble.logits(PAIRS), (first.logits(PAIRS) + second.logits(PAIRS)) / 2, atol=1e-6)
    assert ensemble.fingerprint not in (first.fingerprint, second.fingerprint)
    with pytest.raises(ModelError):
        TeacherEnsemble([first, CrossEncoderTeacher(tiny_cross_encoder_3)])
    loaded = load_teacher(TeacherConfig(models=(str(tiny_cross_encoder), str(tiny_cross_encoder)), precision="fp32"))
    np.testing.assert_allclose(loaded.logits(PAIRS), first.logits(PAIRS), atol=1e-6)


def test_no_pairs_and_bad_pairs(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    teacher = CrossEncoderTeacher(tiny_cross_encoder)
    assert teacher.logits([]).shape == (0, 1)
    with pytest.raises(DistilmatchError, match="item 1 holds None as text 2"):
        teacher.logits([("a", "b"), ("a", None)])  # type: ignore[list-item]
    with pytest.raises(DistilmatchError):
        CrossEncoderTeacher(tmp_path / "nothing-here")
