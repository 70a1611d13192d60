"""Representations carry their side and their model, and a model scores only its own; numbers that are none are named by row."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ModelError
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

TEXTS = ["red car", "a big blue house", "old tea"]


def _student(encoder: Path, seed: int = 0, **changes: object) -> DiPair:
    torch.manual_seed(seed)
    shape = StudentConfig(
        **{"max_lengths": (16, 16), "kept_tokens": (4, 4), "side_names": ("query", "document"), **changes}  # type: ignore[arg-type]
    )
    return DiPair.from_encoder(encoder, shape, TaskConfig(kind="binary")).eval()


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    return _student(tiny_encoder)


def test_representations_say_side_and_model(student: DiPair) -> None:
    for side in (0, 1):
        found = student.encode(TEXTS, side)
        assert (found.side, found.model) == (side, student.representation_fingerprint(side))
        assert found[torch.tensor([1])].model == found.model
    assert student.encode(TEXTS, "document").side == 1


def test_sides_that_are_mixed_up_are_refused(student: DiPair) -> None:
    left, right = student.encode(TEXTS, 0), student.encode(TEXTS, 1)
    expected = student.score(left, right)
    with pytest.raises(ModelError, match=r"side 0 \(query\) was given representations of side 1 \(document\)"):
        student.score(right, left)
    with pytest.raises(ModelError, match=r"side 1 \(document\) was given representations of side 0 \(query\)"):
        student.score(left, student.encode(TEXTS))
    unsaid = [TokenRepresentations(side.tokens, side.mask) for side in (left, right)]
    np.testing.assert_array_equal(student.score(*unsaid), expected)
    np.testing.assert_array_equal(student.score(*unsaid[:1], right), expected)


def test_representations_of_another_model_are_refused(student: DiPair, tiny_encoder: Path) -> None:
    other = _student(tiny_encoder, seed=5, head_start="random")
    left, right = student.encode(TEXTS, 0), student.encode(TEXTS, 1)
    with pytest.raises(ModelError, match=f"of a model {left.model}, this model is"):
        other.score(left, right)
    same = copy.deepcopy(student)
    np.testing.assert_array_equal(same.score(left, right), student.score(left, right))


def _step(model: DiPair) -> None:
    with torch.no_grad():
        model.head_inputs[0].projection.weight[0, 0] += 0.01


CHANGES = {
    "a step": _step,
    "past the counter": lambda model: (
        model.encoders[0].get_parameter("encoder.layer.1.output.dense.weight").data.mul_(1.5)
    ),
    "other weights in their place": lambda model: model.load_state_dict(
        {name: weight * 1.01 for name, weight in model.state_dict().items()}
    ),
    "another dtype": lambda model: model.bfloat16(),
    "another dtype and back": lambda model: model.half().float(),
    "another parameter": lambda model: setattr(
        model.encoders[0].embeddings.LayerNorm, "bias", torch.nn.Parameter(torch.full((32,), 0.1))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_encoded_before_a_change_of_the_weights_is_refused(tiny_encoder: Path, change: str) -> None:
    model = _student(tiny_encoder)
    before = [model.encode(TEXTS, side) for side in (0, 1)]
    model.score(*before)
    CHANGES[change](model)
    with pytest.raises(ModelError, match="weights may have changed"):
        model.score(*before)
    after = [model.encode(TEXTS, side) for side in (0, 1)]
    assert [side.model for side in after] == [model.representation_fingerprint(side) for side in (0, 1)]
    model.score(*after)


def test_the_fingerprint_of_unchanged_weights_is_taken_once(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, taken = _student(tiny_encoder), []
    take = model.representation_fingerprint
    monkeypatch.setattr(model, "representation_fingerprint", lambda side: taken.append(side) or take(side))
    for _ in range(3):
        model.score(model.encode(TEXTS, 0), model.encode(TEXTS, 1))
        model.train().eval()
    assert taken == [0, 1]
    model.predict([("red", "car")])  # nothing is stamped for it
    assert taken == [0, 1]


def test_weights_that_were_loaded_in_inference_mode_can_be_trained(student: DiPair, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path / "s")
    with torch.inference_mode():
        model = DiPair.from_pretrained(tmp_path / "s")
    assert not any(weight.is_inference() for weight in (*model.parameters(), *model.buffers()))


def test_weights_whose_changes_nobody_counts_are_read_anew(tiny_encoder: Path) -> None:
    student = _student(tiny_encoder)
    with torch.inference_mode():
        model = copy.deepcopy(student)
        assert model.classifier.weight.is_inference()
        before = model.encode(TEXTS, 0)
        model.encoders[0].get_parameter("encoder.layer.0.output.dense.weight")[3, 3] += 1
        assert model.encode(TEXTS, 0).model == model.representation_fingerprint(0) != before.model


def test_a_student_that_has_encoded_is_copied_and_pickled(student: DiPair) -> None:
    left, right = student.encode(TEXTS, 0), student.encode(TEXTS, 1)
    again = pickle.loads(pickle.dumps(student))
    np.testing.assert_array_equal(again.score(left, right), student.score(left, right))


def _with(texts: TokenRepresentations, row: int, value: float) -> TokenRepresentations:
    tokens = texts.tokens.clone()
    tokens[row, 1, 2] = value
    return replace(texts, tokens=tokens)


def _unmasked(texts: TokenRepresentations, row: int) -> TokenRepresentations:
    mask = texts.mask.clone()
    mask[row] = False
    return replace(texts, mask=mask)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, -1e16])
def test_numbers_that_are_none_are_named_by_row(student: DiPair, value: float) -> None:
    left, right = student.encode(TEXTS, 0), student.encode(TEXTS, 1)
    with pytest.raises(ModelError, match="side 1: row 2 holds numbers"):
        student.score(left, _with(right, 2, value))
    with pytest.raises(ModelError, match="side 0: row 1 holds numbers"):
        student.score(_with(left, 1, value), right, rows=[[0, 0], [1, 2], [1, 1]])
    with pytest.raises(ModelError, match="side 0: row 71 holds"):
        student.check_representations(_with(left, 1, value), 0, rows=np.array([70, 71, 72]))
    # What is not scored is not asked.
    assert student.score(_with(left, 1, value), right, rows=[[0, 0], [2, 2]]).shape == (2, 1)


def test_a_text_without_a_real_token_is_named_by_row(student: DiPair) -> None:
    left, right = student.encode(TEXTS, 0), student.encode(TEXTS, 1)
    with pytest.raises(ModelError, match="side 0: row 1 has no real token"):
        student.score(_unmasked(left, 1), right)
    with pytest.raises(ModelError, match="side 1: row 0 has no real token"):
        student.check_representations(_unmasked(right, 0), 1)


def test_other_shapes_and_dtypes_are_refused(student: DiPair) -> None:
    left, right = student.encode(TEXTS, 0), student.encode(TEXTS, 1)
    for wrong in (
        TokenRepresentations(left.tokens[:, :3], left.mask[:, :3]),
        TokenRepresentations(left.tokens[:, :, :7], left.mask),
        TokenRepresentations(left.tokens.to(torch.int32), left.mask),
        TokenRepresentations(left.tokens, left.mask.to(torch.int64)),
    ):
        with pytest.raises(ModelError, match="side 0 holds"):
            student.score(wrong, right)


def test_scores_that_are_no_numbers_are_named(tiny_encoder: Path) -> None:
    model = _student(tiny_encoder)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="score of row 0 is not a finite number"):
        model.predict([("red", "car")])
    with torch.no_grad():
        model.encoders[0].get_parameter("encoder.layer.1.output.dense.weight")[0, 0] = float("inf")
    with pytest.raises(ModelError, match="text 0 is encoded to numbers that are not finite: 'red'"):
        model.encode(["red", "car"])
