"""Mixtures of labelled rows: drawn once, labelled from word embeddings, learnt beside the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import Stopped
from tests.training.test_distil import recipe as recipe

from distilmatch import CrossEncoderTeacher, PairRecipe, TeacherEnsemble
from distilmatch.data.mixtures import draw_mixtures, mixed_batch, mixed_of, text_parts, virtual_text
from distilmatch.data.saved import read_saved_table
from distilmatch.errors import ConfigError
from distilmatch.objectives import soft_binary_cross_entropy
from distilmatch.teachers.classes import InTaskOrder
from distilmatch.teachers.mixtures import MixtureTeacher
from distilmatch.training.pairs import trainer as module
from distilmatch.training.pairs.batches import BlockDataset, TextCollator
from distilmatch.training.pairs.distil import distil_pairs, label_transfer_set, new_student
from distilmatch.training.pairs.mixtures import MixingCollator
from distilmatch.types import TupleTable

FIRST, SECOND = ("red car", "a small blue house"), ("the green dog is small", "book")


def _virtual(first: tuple[str, str], second: tuple[str, str], share: float) -> tuple[str, str]:
    left, right = (virtual_text(a, b, share) for a, b in zip(first, second, strict=True))
    return left, right


def _with(recipe: PairRecipe, **changes: Any) -> PairRecipe:
    stages = {name: getattr(recipe, name).replaced(epochs=1, evaluations=1) for name in ("stage1", "stage2")}
    transfer = recipe.transfer.replaced(rounds=1, mixtures=40, **changes)
    return recipe.replaced(start="encoder", transfer=transfer, **stages)


def test_they_are_the_same_for_the_same_seed_and_of_two_labelled_rows() -> None:
    gold = np.float32([0, 1, np.nan, 1, 0])
    table = TupleTable(texts=list("abcdefghij"), rows=np.arange(10).reshape(5, 2), gold=gold)
    made, again, other = (draw_mixtures(table, 50, 0.4, seed) for seed in (3, 3, 4))
    assert made.tuples() == again.tuples() != other.tuples()
    shares = []
    for left, right in made.tuples():
        (a, c, share), (b, d, same) = mixed_of(left), mixed_of(right)
        shares.append(share)
        assert share == same and (a, b) != (c, d)
        assert {(a, b), (c, d)} <= {("a", "b"), ("c", "d"), ("g", "h"), ("i", "j")}
    assert min(shares) >= 0 and max(shares) <= 1 and np.mean([min(share, 1 - share) < 0.25 for share in shares]) > 0.5


def test_parts_are_laid_over_one_another() -> None:
    first, second = text_parts([101, 7, 8, 9, 102], 1, 1), text_parts([101, 5, 102], 1, 1)
    short = (text_parts([101, 4, 102], 1, 1), second, 0.5)
    batch = mixed_batch([(first, second, 0.25), short], 0)
    assert batch["input_ids"].tolist() == [[101, 7, 8, 9, 102], [101, 4, 102, 0, 0]]
    assert batch["mixed_ids"].tolist() == [[101, 5, 0, 0, 102], [101, 5, 102, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]  # the union of both
    assert batch["parts"][0].tolist() == [0, 1, 1, 1, 2] and batch["shares"].tolist() == [0.25, 0.5]
    assert mixed_batch([short, (first, second, 1.0)], 0, left=True)["attention_mask"].tolist()[0] == [0, 0, 1, 1, 1]


def _slow_logits(teacher: CrossEncoderTeacher, first: Any, second: Any, share: float) -> np.ndarray:
    """Of one mixture, without a batch: BERT's tokens written out, its embeddings added by hand."""
    tokenizer, model = teacher.model.tokenizer, teacher.model[0].model.eval()
    words = [[tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in pair] for pair in (first, second)]
    longest = [max(len(pair[side]) for pair in words) for side in (0, 1)]
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    rows = []
    for pair in words:
        left, right = (own + [pad] * (length - len(own)) for own, length in zip(pair, longest, strict=True))
        rows.append([cls, *left, sep, *right, sep])
    table = model.get_input_embeddings()
    mixed = share * table(torch.tensor(rows[0])) + (1 - share) * table(torch.tensor(rows[1]))
    second = int("token_type_ids" in tokenizer("a", "a"))  # else the teacher itself reads all as one segment
    types = torch.tensor([[0] * (longest[0] + 2) + [second] * (longest[1] + 1)])
    with torch.no_grad():
        return model(inputs_embeds=mixed[None], token_type_ids=types).logits.numpy()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_teacher_reads_a_mean_of_word_embeddings(tiny_cross_encoder: Path, share: float) -> None:
    teacher = CrossEncoderTeacher(str(tiny_cross_encoder), precision="fp32", batch_size=2)
    pairs = [(FIRST, SECOND), (SECOND, FIRST), (FIRST, ("a red lamp", "blue"))]
    made = MixtureTeacher(teacher).logits([_virtual(a, b, share) for a, b in pairs])
    slow = np.concatenate([_slow_logits(teacher, a, b, share) for a, b in pairs])
    np.testing.assert_allclose(made, slow, rtol=1e-4, atol=1e-5)


def test_a_pair_mixed_with_itself_is_the_pair(tiny_cross_encoder: Path, recipe: PairRecipe) -> None:
    teacher = CrossEncoderTeacher(str(tiny_cross_encoder), precision="fp32")
    pairs = [_virtual(pair, pair, 0.3) for pair in (FIRST, SECOND)]
    both = MixtureTeacher(TeacherEnsemble([teacher, CrossEncoderTeacher(str(tiny_cross_encoder), precision="fp32")]))
    for mixes in (MixtureTeacher(teacher), both):
        np.testing.assert_allclose(mixes.logits(pairs), teacher.logits([FIRST, SECOND]), rtol=1e-4, atol=1e-5)
    short = CrossEncoderTeacher(str(tiny_cross_encoder), precision="fp32", max_length=6)
    assert np.isfinite(MixtureTeacher(short).logits([_virtual(FIRST, SECOND, 0.5)])).all()
    assert MixtureTeacher(teacher).fingerprint != MixtureTeacher(short).fingerprint != teacher.fingerprint
    with pytest.raises(ConfigError, match="takes only texts"):
        MixtureTeacher(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"lexical": True}, {"word_vectors": True}])
def test_the_student_reads_what_the_teacher_does(recipe: PairRecipe, changes: dict[str, Any]) -> None:
    own = _with(recipe).replaced(student=recipe.student.replaced(**changes))
    table = label_transfer_set(own)
    model = new_student(own, table).eval()
    texts = [virtual_text(text, text, 0.3) for pair in (FIRST, SECOND) for text in pair]
    mixtures = TupleTable(texts=texts, rows=np.array([[0, 1], [2, 3]]), teacher=np.zeros((2, 1), dtype=np.float32))
    dataset = BlockDataset(table)
    collate = MixingCollator(TextCollator(table, model), dataset.bounds, mixtures, model)
    mixed = collate([dataset[0], dataset[1]])["mixed"]
    with torch.no_grad():
        logits = model(streams=mixed["streams"], rows=mixed["rows"]).logits.numpy()
    np.testing.assert_allclose(logits, model.logits([FIRST, SECOND], precision="fp32"), rtol=1e-4, atol=1e-4)
    assert "mixed" not in collate([dataset[2]])  # two mixtures come with the first two blocks
    assert len(collate([dataset[1]])["mixed"]["teacher"]) == 1


def test_mixtures_are_labelled_in_the_tasks_order(tiny_cross_encoder_3: Path) -> None:
    teacher = CrossEncoderTeacher(str(tiny_cross_encoder_3), precision="fp32")
    pair = [_virtual(FIRST, SECOND, 0.4)]
    ordered = MixtureTeacher(InTaskOrder(teacher, np.array([2, 0, 1]), ("a", "b", "c"))).logits(pair)
    np.testing.assert_array_equal(ordered, MixtureTeacher(teacher).logits(pair)[:, [2, 0, 1]])


def test_they_are_part_of_the_loss(recipe: PairRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    original = module.BlockTrainer._mixed_loss

    def watched(self: Any, model: Any, mixed: Any) -> torch.Tensor:
        loss = original(self, model, mixed)
        with torch.no_grad():
            logits = model(streams=mixed["streams"], rows=mixed["rows"]).logits
        seen.append((loss.item(), soft_binary_cross_entropy(logits, mixed["teacher"]).item()))
        return loss

    monkeypatch.setattr(module.BlockTrainer, "_mixed_loss", watched)
    own = _with(recipe)
    student = distil_pairs(own)
    assert len(seen) > 4 and all(abs(a - b) < 1e-5 for a, b in seen)
    table = read_saved_table(Path(own.output) / "mixtures")
    assert len(table) == 40 and table.teacher is not None and np.isfinite(table.teacher).all()
    monkeypatch.undo()
    again = own.replaced(output=f"{own.output}-again")
    calls = {"steps": 0}
    compute = module.BlockTrainer.compute_loss

    def breaks(self: object, *args: object, **kwargs: object) -> object:
        calls["steps"] += 1
        if calls["steps"] in (3, 9):
            raise Stopped
        return compute(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module.BlockTrainer, "compute_loss", breaks)
    for _ in range(2):
        with pytest.raises(Stopped):
            distil_pairs(again)
    for name, value in distil_pairs(again).state_dict().items():
        torch.testing.assert_close(value, student.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_what_cannot_be_mixed(recipe: PairRecipe) -> None:
    own = _with(recipe)
    with pytest.raises(ConfigError, match="a ranking compares lists"):
        own.replaced(task={"kind": "ranking"})
    with pytest.raises(ConfigError, match="needs a `teacher`"):
        own.replaced(teacher=None, transfer=own.transfer.replaced(rounds=0))
    with pytest.raises(ConfigError, match=r"mixtures: 40.*beyond `teacher\.budget: 50`"):
        own.replaced(teacher=own.teacher.replaced(budget=50))  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="a FunctionTeacher, takes only texts"):
        distil_pairs(own, teacher=lambda pairs: [0.0] * len(pairs))
