"""The job of `quality_products`: recall by row numbers, the precision of what is known, the teacher's order."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.sets import SETS
from sklearn.metrics import f1_score
from tests.helpers import COLOURS, jsonl

from benchmarks import quality_products, quality_products_all_pairs
from distilmatch.config.pairs import StudentConfig
from distilmatch.models import DiPair

LEFT = [{"id": f"a{i}", "text": f"{colour} car"} for i, colour in enumerate(COLOURS[:5])]
RIGHT = [{"id": f"b{i}", "text": f"a {colour} car"} for i, colour in enumerate(reversed(COLOURS[:5]))]


@pytest.fixture
def shops(tmp_path: Path) -> quality_products.Shops:
    folder = tmp_path / "walmart_amazon"
    folder.mkdir()
    pairs = [{"left_id": f"a{i}", "right_id": f"b{4 - i}", "label": 1} for i in range(5)]
    wrong = {"left_id": "a0", "right_id": "b0", "label": 0}
    files = {"tableA": LEFT, "tableB": RIGHT, "train": [*pairs[:2], wrong], "valid": pairs[2:3], "test": pairs[3:]}
    for name, rows in files.items():
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(jsonl(rows).encode()))
    return quality_products.Shops(SETS["walmart_amazon"], tmp_path)


def test_known_matches_and_recall(shops: quality_products.Shops) -> None:
    assert shops.known == {"train": {(0, 4), (1, 3)}, "valid": {(2, 2)}, "test": {(3, 1), (4, 0)}}
    assert shops.asked == [3, 4]
    best = [[0, 1, 2, 3, 4]] * 5
    recalls = shops.recalls("x", best)
    assert (recalls["x_recall_at_1"], recalls["x_recall_at_5"]) == (0.5, 1.0)


def test_precision_counts_matches_of_every_split(shops: quality_products.Shops) -> None:
    found = quality_products.precision_above([[4, 0], [3], [], [1], []], [[2.0, 1.5], [1.2], [], [0.5], []], 1.0, shops)
    assert found["job_pairs_above_threshold"] == 3
    assert found["job_precision_lower_bound"] == pytest.approx(2 / 3)
    assert found["job_recall_above_threshold"] == 0.0


def test_blocking_finds_the_same_words_and_a_teacher_orders(shops: quality_products.Shops) -> None:
    best = quality_products.tfidf_best(shops, {}).tolist()
    assert [own[0] for own in best] == [4, 3, 2, 1, 0]

    class Longest:
        def logits(self, pairs: list[tuple[str, str]]) -> np.ndarray:
            return np.array([[len(right)] for _, right in pairs])

    order, _ = quality_products.reranked(Longest(), best, shops)
    lengths = [len(shops.texts[1][right]) for right in order[3]]
    assert lengths == sorted(lengths, reverse=True) and not order[0]


@pytest.mark.slow
def test_the_job_by_commands(shops: quality_products.Shops, tmp_path: Path, tiny_encoder: Path) -> None:
    shape = StudentConfig(kept_tokens=(2, 2), max_lengths=(16, 16))
    DiPair.from_encoder(tiny_encoder, shape, replace(SETS["walmart_amazon"]).task).save_pretrained(tmp_path / "student")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quality_products, "KEPT", 3)
        best, logits, seconds = quality_products.matched(tmp_path / "student", shops, tmp_path / "job")
    assert [len(own) for own in best] == [3] * 5
    assert all(own == sorted(own, reverse=True) for own in logits)
    assert set(seconds) == {"encode_tableA", "encode_tableB", "match"} and min(seconds.values()) > 0
    model = DiPair.from_pretrained(tmp_path / "student").eval()
    pairs = [(left, right) for left in shops.texts[0] for right in shops.texts[1]]
    expected = np.asarray(model.logits(pairs)).reshape(5, 5)
    for left in range(5):
        np.testing.assert_allclose(logits[left], expected[left, best[left]], atol=0.05)  # bf16 products


def test_layers_hold_what_they_say() -> None:
    rng = np.random.default_rng(0)
    best = [rng.permutation(40)[:10].tolist() for _ in range(30)]
    scores = [sorted(rng.normal(size=10).tolist(), reverse=True) for _ in range(30)]
    drawn, sizes = quality_products_all_pairs.layers(best, scores, 0.5, 40, 90)
    ranked = {(left, right): score for left in range(30) for right, score in zip(best[left], scores[left], strict=True)}
    assert sizes == {
        "matches": sum(score > 0.5 for score in ranked.values()),
        "near": sum(score <= 0.5 for score in ranked.values()),
        "far": 30 * 40 - 300,
    }
    for name, pairs in drawn.items():
        assert len(pairs) == len(set(map(tuple, pairs.tolist()))) == min(30, sizes[name])
        for pair in map(tuple, pairs.tolist()):
            assert (pair in ranked) == (name != "far")
            assert name == "far" or (ranked[pair] > 0.5) == (name == "matches")


def test_agreement_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    sizes = {"matches": 50, "near": 200, "far": 1000}
    teacher = {
        name: rng.random(count) < share for (name, count), share in zip(sizes.items(), (0.8, 0.1, 0.01), strict=True)
    }
    found = quality_products_all_pairs.agreement(teacher, sizes)  # every pair is in the sample: nothing is estimated
    student_says = np.repeat([True, False, False], list(sizes.values()))
    teacher_says = np.concatenate(list(teacher.values()))
    assert found["agreement_at_threshold"] == pytest.approx(f1_score(teacher_says, student_says))
    assert found["teacher_matches"] == pytest.approx(teacher_says.sum())
