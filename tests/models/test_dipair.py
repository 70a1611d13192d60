"""The student as a whole: padding, order and batch size never change a score; save and load is exact."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ModelError
from distilmatch.models import DiPair, DiPairConfig, dipair

SMALL = dict(width=16, head_heads=2, max_lengths=(24, 24), kept_tokens=(3, 5))
THREE = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))

words = st.lists(
    st.sampled_from(["red", "blue", "big", "small", "car", "house", "the", "a", "runs", "not"]), min_size=1, max_size=12
)
texts = words.map(" ".join)


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    torch.manual_seed(0)
    model = DiPair.from_encoder(tiny_encoder, StudentConfig(**SMALL), THREE).eval()
    for parameter in model.parameters():  # a random head must be far from constant for the tests to bite
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=12),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_batch_size_and_order_never_change_a_score(
    student: DiPair, pairs: list[tuple[str, str]], batch_size: int, seed: int
) -> None:
    alone = np.concatenate([student.logits([pair], batch_size=1) for pair in pairs])
    order = np.random.default_rng(seed).permutation(len(pairs))
    together = student.logits([pairs[i] for i in order], batch_size=batch_size)
    np.testing.assert_allclose(together, alone[order], atol=2e-5, rtol=1e-4)


def test_scores_differ_between_pairs_and_sides(student: DiPair) -> None:
    logits = student.logits([("red car", "blue house"), ("blue house", "red car"), ("red car", "big car")])
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    assert np.abs(logits[0] - logits[2]).max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "feed_forward", "head_layers": 2},
        {"head": "cosine", "kept_tokens": (1, 1)},
        {"shared_encoder": False},
        {"max_lengths": (8, 24)},
        {"head_norm": "pre", "kept_strategy": "spaced"},
        {"encoder_layers": 1, "kept_strategy": "first_pooled"},
        {"kept_strategy": "averaged"},
        {"word_vectors": True},
        {"side_names": ("a", "b", "c"), "max_lengths": (24, 24, 8), "kept_tokens": (2, 2, 2)},
    ],
    ids=lambda changes: "-".join(changes) or "default",
)
def test_save_and_load_is_exact(tiny_encoder: Path, tmp_path: Path, changes: dict) -> None:
    config = StudentConfig(**{**SMALL, **changes})
    torch.manual_seed(1)
    model = DiPair.from_encoder(tiny_encoder, config, THREE).eval()
    model.save_pretrained(tmp_path)
    loaded = DiPair.from_pretrained(tmp_path)
    assert loaded.student == model.student and loaded.task == THREE
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    rows = [("red car", "a big house", "not")[: config.sides], ("small", "the car runs", "red")[: config.sides]]
    np.testing.assert_array_equal(model.logits(rows), loaded.logits(rows))
    for side in range(config.sides):
        assert model.representation_fingerprint(side) == loaded.representation_fingerprint(side)
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))
    assert "DiPair" in (tmp_path / "README.md").read_text()


def test_word_vectors_stand_beside_the_outputs(tiny_encoder: Path) -> None:
    shape = StudentConfig(kept_tokens=(4, 6), max_lengths=(24, 24))
    plain = DiPair.from_encoder(tiny_encoder, shape, THREE).eval()
    model = DiPair.from_encoder(tiny_encoder, shape.replaced(word_vectors=True), THREE).eval()
    texts, width = ["red car", "the big house runs"], plain.encoder_width(0)
    kept, mask = model.encode_kept(texts, 0)
    without, _ = plain.encode_kept(texts, 0)
    torch.testing.assert_close(kept[:, :, :width], without)
    words = model.encoders[0].get_input_embeddings()
    for text, own, real in zip(texts, kept[:, :, width:], mask, strict=True):
        ids = model.tokenizers[0](text)["input_ids"][: int(real.sum())]
        torch.testing.assert_close(own[: len(ids)], words(torch.tensor(ids)))
    batch = model.tokenizers[0](texts, padding=True, return_tensors="pt")
    model(torch.tensor([[0, 1]]), streams=[[dict(batch)]] * len(model.streams)).logits.sum().backward()
    gradient = model.head_inputs[0].projection.weight.grad
    assert gradient is not None and gradient[:, width:].abs().max() > 0


def test_auto_classes_load_it(student: DiPair, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), DiPairConfig)
    for auto in (AutoModel, AutoModelForSequenceClassification):
        assert isinstance(auto.from_pretrained(tmp_path), DiPair)
    assert AutoConfig.from_pretrained(tmp_path).id2label == {0: "no", 1: "maybe", 2: "yes"}


def test_the_encoder_alone_loads_without_this_package(student: DiPair, tmp_path: Path) -> None:
    student.save_encoder(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    own, loaded = student.encoders[0].state_dict(), encoder.state_dict()
    assert type(encoder).__name__ == "BertModel" and all(torch.equal(own[name], loaded[name]) for name in own)


def test_cached_scores_equal_predicted_ones(student: DiPair) -> None:
    left, right = ["red car", "the house"], ["a big car", "not", "small blue house runs"]
    rows = np.array([[0, 2], [1, 0], [1, 1], [0, 0]])
    cached = student.score(student.encode(left, "left"), student.encode(right, "document"), rows=rows)
    np.testing.assert_allclose(cached, student.logits([(left[i], right[j]) for i, j in rows]), atol=1e-5)


def test_push_to_hub_uploads_a_whole_folder(student: DiPair, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, str] = {}

    class Hub:
        def __init__(self, **_: object) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=f"someone/{repo_id}")

        def upload_folder(self, repo_id: str, folder_path: str, **_: object) -> SimpleNamespace:
            sent["repo"] = repo_id
            sent.update({path.name: path.read_text(errors="replace") for path in Path(folder_path).iterdir()})
            return SimpleNamespace(commit_url="the commit")

    monkeypatch.setattr(dipair, "HfApi", Hub)
    assert student.push_to_hub("a-student") == "the commit"
    assert sent["repo"] == "someone/a-student"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(sent)
    assert "# DiPair student" in sent["README.md"]


def test_forward_equals_logits(student: DiPair) -> None:
    tokens = student.tokenizers[0](["red car", "a house", "not the big car"], padding=True, return_tensors="pt")
    stream = [{name: tokens[name] for name in ("input_ids", "attention_mask")}]
    with torch.no_grad():
        logits = student(rows=torch.tensor([[0, 1], [2, 0]]), streams=[stream]).logits
    np.testing.assert_allclose(
        logits.numpy(), student.logits([("red car", "a house"), ("not the big car", "red car")]), atol=1e-5
    )


def test_predict_and_rank_have_the_shapes_of_a_cross_encoder(tiny_encoder: Path) -> None:
    torch.manual_seed(0)
    model = DiPair.from_encoder(tiny_encoder, StudentConfig(**SMALL)).eval()
    pairs = [("red", "car"), ("big", "house")]
    scores = model.predict(pairs)
    assert isinstance(scores, np.ndarray) and scores.shape == (2,) and ((scores > 0) & (scores < 1)).all()
    raw = model.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(1 / (1 + np.exp(-raw)), scores, rtol=1e-6)
    assert np.shape(model.predict(("red", "car"))) == ()
    ranking = model.rank("red", ["car", "house", "big"], top_k=2, return_documents=True)
    assert len(ranking) == 2 and ranking[0]["score"] >= ranking[1]["score"]
    assert set(ranking[0]) == {"corpus_id", "score", "text"}
    assert isinstance(model.predict(pairs, convert_to_tensor=True), torch.Tensor)
    scores = model.predict(pairs)
    for form in ({}, {"convert_to_numpy": False}, {"convert_to_tensor": True}):
        one = model.predict(pairs[0], **form)
        assert np.ndim(one) == 0 and float(one) == pytest.approx(float(scores[0]), abs=1e-6)
    assert model.predict([]).shape == (0,)


def test_a_class_model_gives_raw_logits_or_probabilities(student: DiPair) -> None:
    raw = student.predict([("red", "car")])
    probabilities = student.predict([("red", "car")], apply_softmax=True)
    assert raw.shape == (1, 3) and probabilities.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.predict([("one",)]), "item 0 holds 1 texts, not 2"),
        (lambda model: model.predict([("one", None)]), "not a string"),
        (lambda model: model.encode([]), "empty"),
        (lambda model: model.encode(["a"], side="middle"), "no side"),
        (lambda model: model.rank("a", ["b"]), "one label"),
        (lambda model: model.score(model.encode(["a"], 0)), "1 sides given"),
        (
            lambda model: model.score(model.encode(["a"], 0), model.encode(["a"], 0)),
            "side 1 .right. was given .* of side 0",
        ),
        (
            lambda model: model.score(model.encode(["a"], 0), model.encode(["a"], 1), rows=[[0, 1]]),
            "row numbers out of range",
        ),
    ],
)
def test_bad_input_is_explained(student: DiPair, call: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        call(student)  # type: ignore[operator]


def test_a_folder_of_another_model_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a DiPair"):
        DiPair.from_pretrained(tiny_encoder)
    with pytest.raises(ModelError, match="config.json"):
        DiPair.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has 2 layers"):
        DiPair.from_encoder(tiny_encoder, StudentConfig(encoder_layers=9))


def test_fingerprints_tell_sides_and_weights_apart(tiny_encoder: Path) -> None:
    torch.manual_seed(0)
    model = DiPair.from_encoder(tiny_encoder, StudentConfig(**SMALL))
    left, right = model.representation_fingerprint(0), model.representation_fingerprint("right")
    assert left != right
    with torch.no_grad():
        model.head_inputs[0].projection.weight[0, 0] += 1e-3
    assert model.representation_fingerprint(0) != left


@pytest.mark.parametrize("strategy", ["first", "first_pooled"])
@pytest.mark.parametrize("weightings", [0, 3])
@pytest.mark.parametrize("kept", [(3, 3), (2, 4), (4, 2)])
def test_a_score_starts_as_the_similarities(
    tiny_encoder: Path, strategy: str, weightings: int, kept: tuple[int, int]
) -> None:
    shape = {"width": 32, "head_similarities": 8, "head_maxsim": weightings, "kept_strategy": strategy}
    student = StudentConfig(**{**SMALL, **shape, "kept_tokens": kept}, head_intermediate=64)
    model = DiPair.from_encoder(tiny_encoder, student, TaskConfig(kind="binary")).eval()
    if weightings:
        torch.nn.init.zeros_(model.head.max_similarities.importance.weight)  # type: ignore[union-attr,arg-type]
    pairs = [("red car", "blue car"), ("a small dog", "the old book")]
    sides = [model.encode([pair[j] for pair in pairs], j) for j in (0, 1)]
    cosine = torch.nn.functional.cosine_similarity
    expected = []
    for i in range(len(pairs)):
        left, right = (side.tokens[i][side.mask[i]] for side in sides)
        pooled = (left[0], right[0]) if strategy == "first_pooled" else (left.mean(0), right.mean(0))
        cosines = cosine(left[:, None], right[None, :], dim=-1)
        into = [cosines.amax(1).mean(), cosines.amax(0).mean()]
        found = into[0] if kept[0] < kept[1] else into[1] if kept[1] < kept[0] else sum(into) / 2
        expected.append(4 * cosine(*pooled, dim=0) + (4 * found if weightings else 0))
    got = torch.as_tensor(model.logits(pairs))[:, 0]
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "gaps"),
    [({}, 0), ({"head_maxsim": 3, "head_gaps": 2}, 2), ({"head_gaps": 0}, 0), ({"head_maxsim": 0, "head_gaps": 5}, 0)],
)
def test_gaps_are_read_beside_the_largest_similarities(tiny_encoder: Path, shape: dict[str, int], gaps: int) -> None:
    student = StudentConfig(**{**SMALL, "width": 32, "head_heads": 2, **shape})
    model = DiPair.from_encoder(tiny_encoder, student, TaskConfig(kind="binary"))
    assert model.student.head_gaps == gaps
    both = [model.student.head_maxsim or 0, gaps]
    part = model.head.max_similarities  # type: ignore[union-attr]
    assert (0 if part is None else part.features) == 2 * sum(both)  # type: ignore[union-attr]


def test_a_dual_encoder_s_score_starts_as_the_cosine(tiny_encoder: Path) -> None:
    student = StudentConfig(**{**SMALL, "head": "cosine"})
    model = DiPair.from_encoder(tiny_encoder, student, TaskConfig(kind="binary")).eval()
    left, right = (model.encode(["red car", "a dog"], side) for side in (0, 1))
    means = [(side.tokens * side.mask[:, :, None]).sum(1) / side.mask.sum(1)[:, None] for side in (left, right)]
    got = torch.as_tensor(model.logits([("red car", "red car"), ("a dog", "a dog")]))[:, 0]
    torch.testing.assert_close(got, 4 * torch.nn.functional.cosine_similarity(*means), atol=1e-4, rtol=1e-4)
