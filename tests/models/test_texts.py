"""What `DiPair` takes for texts, sides, rows and order, beyond what tests/doors tries at every door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ModelError
from distilmatch.models import DiPair

TEXTS = ["red car", "a big blue house", "not the small car", "the house runs", "old tea", "a dog sleeps in the sun"]


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    torch.manual_seed(0)
    shape = StudentConfig(width=16, head_heads=2, max_lengths=(24, 24), kept_tokens=(3, 5))
    model = DiPair.from_encoder(tiny_encoder, shape, TaskConfig(kind="ranking")).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def _shift(model: DiPair, by: float) -> None:
    with torch.no_grad():
        model.classifier.bias.fill_(by)


def test_one_pair_is_one_score_and_a_list_of_it_a_list(student: DiPair) -> None:
    assert np.shape(student.predict(("red", "car"))) == ()
    assert student.predict([("red", "car")]).shape == (1,)
    assert np.shape(student.predict(np.array(["red", "car"]))) == ()
    assert len(student.encode("red car")) == 1


@pytest.mark.parametrize("shift", [0.0, 8.0, 17.0, 25.0, 90.0, -90.0])
def test_the_order_of_a_ranking_is_that_of_the_logits(student: DiPair, shift: float) -> None:
    _shift(student, shift)
    documents = TEXTS * 5
    logits = student.logits([("red", text) for text in documents])[:, 0]
    hits = student.rank("red", documents)
    assert [hit["corpus_id"] for hit in hits] == np.argsort(-logits, kind="stable").tolist()
    assert [hit["score"] for hit in hits] == pytest.approx(
        student.predict([("red", t) for t in documents])[np.argsort(-logits, kind="stable")]
    )
    assert [hit["corpus_id"] for hit in student.rank("red", documents, top_k=3)] == [h["corpus_id"] for h in hits[:3]]
    _shift(student, 0.0)


def test_an_activation_orders_by_its_values_and_its_ties_by_logits(student: DiPair) -> None:
    logits = student.logits([("red", text) for text in TEXTS])[:, 0]
    falling = student.rank("red", TEXTS, activation_fn=lambda values: -values)
    assert [hit["corpus_id"] for hit in falling] == np.argsort(logits, kind="stable").tolist()
    tied = student.rank("red", TEXTS, activation_fn=torch.zeros_like)
    assert [hit["corpus_id"] for hit in tied] == np.argsort(-logits, kind="stable").tolist()
    equal = student.rank("red", ["old tea"] * 4)
    assert [hit["corpus_id"] for hit in equal] == [0, 1, 2, 3]


@given(data=st.data())
def test_a_ranking_returns_the_documents_that_it_scored(student: DiPair, data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8))
    labels = data.draw(st.permutations(range(len(texts))))
    series = pd.Series(texts, index=labels)
    for hit in student.rank("red", series, return_documents=True):
        assert hit["text"] == texts[hit["corpus_id"]]
        assert hit["score"] == pytest.approx(float(student.predict(("red", hit["text"]))), abs=1e-6)


def test_logits_of_bf16_are_not_rounded_to_it(student: DiPair) -> None:
    pairs = [(TEXTS[i % 6], " ".join([TEXTS[i % 5], *["red"] * (i % 7), *["big"] * (i % 11)])) for i in range(300)]
    distinct = {precision: len(np.unique(student.logits(pairs, precision=precision))) for precision in ("fp32", "bf16")}
    assert distinct["bf16"] >= 0.97 * distinct["fp32"] > 200
    for head in ("cosine", "lite", "feed_forward"):
        shape = student.student.replaced(head=head, head_start="random", head_similarities=0, head_maxsim=0)
        own = DiPair(
            student.config.__class__(student=shape, task=student.task, encoders=student.config.encoders)
        ).eval()
        own.tokenizers = student.tokenizers
        low = own.logits(pairs, precision="bf16")
        assert low.dtype == np.float32
        assert (low.view(np.uint32) & 0xFFFF).any(), "every logit is a bf16 number"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(["red", None]), "item 1 is None"),
        (lambda m: m.encode(pd.DataFrame({"text": TEXTS})), "table"),
        (lambda m: m.encode({"text": "red"}), "texts"),
        (lambda m: m.encode(["red", "bad \ud83d"]), "text 1 holds half of a surrogate pair"),
        (lambda m: m.predict([("red", "car", "x")]), "item 0 holds 3 texts, not 2"),
        (lambda m: m.rank(["red"], TEXTS), "query: one string"),
        (lambda m: m.rank("red", TEXTS, top_k=-1), "top_k"),
        (lambda m: m.encode(TEXTS, batch_size=0), "batch_size"),
        (lambda m: m.score(m.encode(TEXTS, 0), m.encode(TEXTS, 1), batch_size=-3), "batch_size"),
        (lambda m: m.encode(TEXTS, side=True), "no side True"),
        (lambda m: m.encode(TEXTS, side=0.5), "no side 0.5"),
        (lambda m: m.encode(TEXTS, side=None), "no side None"),
        (lambda m: m.score(m.encode(TEXTS, 0), m.encode(TEXTS, 1), rows=[[0.5, 1.0]]), "whole numbers"),
        (lambda m: m.score(m.encode(TEXTS, 0), m.encode(TEXTS, 1), rows=[0, 1]), r"must be \(n, 2\)"),
        (lambda m: m.score(m.encode(TEXTS, 0), "red"), "side 1 is a str"),
        (lambda m: DiPair.from_encoder({"a": "b"}), "encoder"),
        (lambda m: DiPair.from_encoder(None), "encoder"),
        (lambda m: DiPair.from_encoder("x", sample_texts=[1]), "sample_texts: item 0"),
    ],
)
def test_what_is_no_text_is_refused_by_name(student: DiPair, call: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        call(student)  # type: ignore[operator]


def test_rows_go_by_position(student: DiPair) -> None:
    sides = student.encode(TEXTS, 0), student.encode(TEXTS, np.int64(1))
    rows = np.array([[0, 3], [5, 1], [2, 2]])
    expected = student.score(*sides, rows=rows)
    table = pd.DataFrame(rows, index=[2, 0, 1], columns=["right", "left"])
    for same in (rows.tolist(), torch.from_numpy(rows), table, rows.astype(np.uint8), np.asfortranarray(rows)):
        np.testing.assert_array_equal(student.score(*sides, rows=same), expected)


def test_a_token_that_the_model_was_not_given_is_refused_by_text(tiny_encoder: Path) -> None:
    model = DiPair.from_encoder(tiny_encoder, StudentConfig(kept_tokens=(3, 3), max_lengths=(16, 16)))
    model.tokenizers[0].add_tokens(["zzzz"])
    with pytest.raises(ModelError, match="text 2 has token .*'a zzzz'"):
        model.encode(["red", "blue", "a zzzz"])
