"""Simple baselines against slow oracles and scikit-learn: scores, thresholds, and that no label of the table is read."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder, SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score, f1_score
from transformers import AutoModel, AutoTokenizer

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError, DataError, ModelError
from distilmatch.metrics import task_metrics
from distilmatch.teachers.baselines import baseline_metrics, best_f1_threshold, simple_baselines
from distilmatch.teachers.lexical import LexicalScores, unit_of
from distilmatch.teachers.untrained import untrained_scores
from distilmatch.types import TupleTable

CLASSES = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
BINARY = TaskConfig(kind="binary")
REGRESSION = TaskConfig(kind="regression", label_range=(1.0, 5.0))
RANKING = TaskConfig(kind="ranking")
WORDS = "red blue green black car house dog lamp small big old a the of with".split()


def table(seed: int = 0, texts: int = 40, rows: int = 120, gold: str = "overlap") -> TupleTable:
    """Random texts; gold labels follow how many words two of them share."""
    random = np.random.default_rng(seed)
    made = [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(texts)]
    pairs = random.integers(0, texts, (rows, 2))
    shared = np.array([len({*made[a].split()} & {*made[b].split()}) for a, b in pairs], dtype=np.float64)
    labels = {"overlap": shared >= 3, "classes": np.minimum(shared // 2, 2), "value": 1 + np.minimum(shared, 4)}[gold]
    return TupleTable(texts=made, rows=pairs, gold=labels.astype(np.float32), queries=pairs[:, 0])


@given(st.integers(0, 10_000))
def test_the_tfidf_cosine_is_scikit_learns(seed: int) -> None:
    both = table(seed)
    used = [both.texts[i] for i in np.unique(both.rows)]
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    vectors = vectorizer.fit(used).transform(both.texts)
    expected = [(vectors[[a]] @ vectors[[b]].T).toarray()[0, 0] for a, b in both.rows]
    np.testing.assert_allclose(LexicalScores(both).scores(both)[0], expected, atol=1e-6)


def slow_bm25(query: str, document: str, documents: list[str], k1: float = 1.2, b: float = 0.75) -> float:
    mean = sum(len(each.split()) for each in documents) / len(documents)
    counts, length = Counter(document.split()), len(document.split())
    score = 0.0
    for term in query.split():
        frequency = sum(term in each.split() for each in documents)
        rarity = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
        tf = counts[term]
        score += rarity * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean))
    return score


@given(st.integers(0, 10_000))
def test_bm25_is_the_slow_sum_also_for_words_that_were_not_fitted(seed: int) -> None:
    fitted, asked = table(seed), table(seed + 1)
    asked = replace(asked, texts=[f"{text} n{i % 3} n{i % 3}" for i, text in enumerate(asked.texts)])
    documents = [fitted.texts[i] for i in np.unique(fitted.rows[:, 1])]
    expected = [slow_bm25(asked.texts[a], asked.texts[b], documents) for a, b in asked.rows]
    np.testing.assert_allclose(LexicalScores(fitted).scores(asked)[1], expected, rtol=1e-5, atol=1e-5)


def test_left_and_right_are_alike_for_tfidf_and_not_for_bm25() -> None:
    both = table()
    turned = replace(both, rows=both.rows[:, ::-1].copy())
    scorer = LexicalScores(both)
    (cosine, bm25), (other_cosine, other_bm25) = scorer.scores(both), scorer.scores(turned)
    np.testing.assert_allclose(cosine, other_cosine, atol=1e-6)
    assert np.abs(bm25 - other_bm25).max() > 0.1


def test_a_name_seen_nowhere_else_counts_as_the_rarest_word() -> None:
    pairs = TupleTable(
        texts=["zx81 red", "zx81 car", "blue red", "blue car"], rows=np.array([[0, 1], [2, 3]])
    )  # blue is common in the fitted table, zx81 is not in it
    cosine, bm25 = LexicalScores(table()).scores(pairs)
    assert cosine[0] > cosine[1] and bm25[0] > bm25[1]


def test_texts_without_spaces_are_compared_by_characters() -> None:
    texts = [
        "赤い車が道路を走っているところを見た人がいる",
        "赤い車が道路を走る様子を見ていた人がここにいる",
        "青い家の前で犬が静かに眠っていました昨日の夜",
    ]
    pairs = TupleTable(texts=texts, rows=np.array([[0, 1], [0, 2]]))
    assert unit_of(pairs) == "characters" and unit_of(table()) == "words"
    cosine, bm25 = LexicalScores(pairs, "characters").scores(pairs)
    assert cosine[0] > 3 * cosine[1] and bm25[0] > bm25[1]
    assert list(simple_baselines(None, pairs, BINARY)) == ["TF-IDF letters", "BM25"]


@given(
    st.lists(st.text("abc é5\t\n車", min_size=1, max_size=12).filter(lambda text: text.strip()), min_size=2, max_size=6)
)
def test_the_cosine_of_letters_is_scikit_learns(texts: list[str]) -> None:
    texts = list(dict.fromkeys(texts))
    rows = np.array([[i, j] for i in range(len(texts)) for j in range(len(texts))])
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(3, 3), analyzer="char_wb")
    vectors = vectorizer.fit_transform(texts)
    pairs = TupleTable(texts=texts, rows=rows)
    expected = (vectors @ vectors.T).toarray().ravel()
    np.testing.assert_allclose(LexicalScores(pairs, "characters").scores(pairs)[0], expected, atol=1e-6)


@pytest.mark.parametrize("empty", ["", "   ", "\n"])
def test_a_text_without_a_term_has_zero(empty: str) -> None:
    pairs = TupleTable(texts=[empty, "red car"], rows=np.array([[0, 1], [1, 0], [0, 0], [1, 1]]))
    cosine, bm25 = LexicalScores(pairs).scores(pairs)
    assert cosine[:3].tolist() == [0, 0, 0] and cosine[3] == pytest.approx(1)
    assert np.isfinite(bm25).all() and bm25[:3].tolist() == [0, 0, 0]
    alone = pairs.take(np.array([2]))
    assert LexicalScores(alone).scores(alone)[0].tolist() == [0]


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_the_threshold_has_the_best_f1_of_all(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows])
    found = f1_score(positive, scores > best_f1_threshold(scores, positive), zero_division=0.0)
    if not positive.any():
        assert not (scores > best_f1_threshold(scores, positive)).any()
        return
    cuts = [scores.min() - 1, *scores]
    assert found == pytest.approx(max(f1_score(positive, scores > cut, zero_division=0.0) for cut in cuts))


@given(st.integers(0, 10_000))
def test_average_precision_is_scikit_learns_also_with_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    gold, scores = np.r_[0, 1, random.integers(0, 2, 30)], random.integers(-3, 4, 32).astype(float)
    expected = average_precision_score(gold, scores)
    assert task_metrics(BINARY, gold, scores)["average_precision"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "gold", "constant"),
    [
        (BINARY, "overlap", "largest class"),
        (CLASSES, "classes", "largest class"),
        (REGRESSION, "value", "mean label"),
        (RANKING, "classes", "random order"),
    ],
)
def test_each_task_has_its_baselines_which_read_no_label_of_the_table(
    task: TaskConfig, gold: str, constant: str, tiny_encoder: Path
) -> None:
    train, asked = table(1, gold=gold), table(2, gold=gold)
    logits = simple_baselines(train, asked, task, base_model=tiny_encoder)
    lexical, encoded = ["TF-IDF words", "TF-IDF letters", "BM25"], ["encoder cosine", "encoder MaxSim"]
    assert list(logits) == [constant, *lexical, *encoded, "simple features"]
    assert all(each.shape == (120, task.num_labels) and each.dtype == np.float32 for each in logits.values())
    unlabelled = simple_baselines(train, replace(asked, gold=None), task, base_model=tiny_encoder)
    assert all((logits[name] == unlabelled[name]).all() for name in logits)
    found = baseline_metrics(train, asked, task)
    main = {"binary": "auc", "classification": "accuracy", "regression": "spearman", "ranking": "ndcg@10"}[task.kind]
    assert found["simple features"][main] > found[constant][main] + 0.1
    if task.kind != "classification":
        assert found["TF-IDF words"][main] > found[constant][main]


def test_a_score_by_itself_keeps_its_order_and_is_cut_at_the_best_f1_of_train() -> None:
    train, asked = table(1), table(2)
    assert train.gold is not None
    scorer, logits = LexicalScores(train), simple_baselines(train, asked, BINARY)["TF-IDF words"][:, 0]
    order = np.argsort(scorer.scores(asked)[0], kind="stable")
    assert (np.diff(logits[order]) >= 0).all()
    on_train = simple_baselines(train, train, BINARY)["TF-IDF words"][:, 0]
    cut = best_f1_threshold(scorer.scores(train)[0].astype(float), train.gold > 0.5)
    assert ((on_train > 0) == (scorer.scores(train)[0] > cut)).all()


def test_without_labels_to_fit_on_only_the_order_is_told() -> None:
    asked = table(2)
    found = baseline_metrics(replace(table(1), gold=None), asked, BINARY)
    assert found.keys() == {"TF-IDF words", "TF-IDF letters", "BM25"}
    assert found["BM25"].keys() == {"auc", "average_precision"}
    assert simple_baselines(None, asked, CLASSES) == {}
    assert baseline_metrics(None, table(2, gold="value"), REGRESSION)["BM25"].keys() == {"spearman"}  # type: ignore[arg-type]


def test_labels_that_give_nothing_to_fit_are_taken_as_they_are() -> None:
    train = replace(table(1), gold=np.ones(120, dtype=np.float32))
    assert (simple_baselines(train, table(2), BINARY)["BM25"] > 0).all()
    two_of_three = replace(table(1), gold=np.r_[np.zeros(60), np.full(60, 2.0)].astype(np.float32))
    logits = simple_baselines(two_of_three, table(2), CLASSES)["BM25"]
    assert (logits.argmax(1) != 1).all() and np.isfinite(logits).all()
    assert simple_baselines(train, table(2), CLASSES)["simple features"].argmax(1).tolist() == [1] * 120


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="class indices from 0 to 2"):
        simple_baselines(replace(table(1), gold=np.full(120, 3, dtype=np.float32)), table(2), CLASSES)
    with pytest.raises(DataError, match="between 1 and 5 for regression"):
        simple_baselines(table(1), table(2), REGRESSION)
    with pytest.raises(DataError, match="dev table has none"):
        baseline_metrics(table(1), replace(table(2), gold=None), BINARY)
    three = TupleTable(texts=["a"], rows=np.zeros((2, 3), dtype=np.int64), side_names=("a", "b", "c"))
    with pytest.raises(ConfigError, match="a row has 3"):
        simple_baselines(None, three, BINARY)


def test_own_metrics_are_measured_and_one_that_fails_on_a_constant_is_left_out() -> None:
    def correlation(gold: np.ndarray, logits: np.ndarray) -> float:
        return float(np.corrcoef(gold, logits)[0, 1])

    with np.errstate(all="ignore"):
        found = baseline_metrics(table(1), table(2), BINARY, metrics={"correlation": correlation})
    assert "correlation" in found["BM25"] and "correlation" not in found["largest class"]


def slow_scores(folder: Path, left: str, right: str) -> tuple[float, float]:
    """Cosine of means and MaxSim of one pair, token by token."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    means, tokens = [], []
    for text in (left, right):
        features = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**features).last_hidden_state[0]
        means.append(hidden.mean(0))
        special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
        tokens.append([vector for vector, i in zip(hidden, features["input_ids"][0].tolist()) if i not in special])
    best = [max(float(torch.cosine_similarity(a, b, dim=0)) for b in tokens[1]) for a in tokens[0]]
    return float(torch.cosine_similarity(*means, dim=0)), sum(best) / len(best)


def test_the_untrained_encoder_is_the_slow_sum_by_name_and_loaded(tiny_encoder: Path, tiny_cross_encoder: Path) -> None:
    asked = table(3, rows=30)
    found = untrained_scores(tiny_encoder, asked)
    expected = np.array([slow_scores(tiny_encoder, asked.texts[a], asked.texts[b]) for a, b in asked.rows])
    np.testing.assert_allclose(found["cosine"], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(found["maxsim"], expected[:, 1], atol=1e-5)
    cross_encoder = CrossEncoder(str(tiny_cross_encoder), device="cpu").train()
    loaded, by_name = untrained_scores(cross_encoder, asked), untrained_scores(tiny_cross_encoder, asked)
    np.testing.assert_allclose(loaded["maxsim"], by_name["maxsim"], atol=1e-5)
    assert cross_encoder.training


def test_windows_and_long_or_empty_texts_change_nothing(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = table(3, rows=60)
    asked = replace(asked, texts=[*asked.texts[:-2], "", "red car " * 200])
    whole = untrained_scores(tiny_encoder, asked)
    monkeypatch.setattr("distilmatch.teachers.untrained._WINDOW", 7)
    monkeypatch.setattr("distilmatch.teachers.untrained._MOST_TOKENS", 20)
    parts = untrained_scores(tiny_encoder, asked)
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-5)


def test_a_model_without_tokens_is_refused() -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models

    static = StaticEmbedding(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), embedding_dim=4)
    with pytest.raises(ModelError, match="no transformer"):
        untrained_scores(SentenceTransformer(modules=[static], device="cpu"), table())


def test_terms_are_those_of_the_pattern() -> None:
    pairs = TupleTable(texts=["It's a 5\" shelf!", "5 \" SHELF ! it ' s A"], rows=np.array([[0, 1]]))
    assert re.findall(r"\w+|[^\w\s]", "it's") == ["it", "'", "s"]
    assert 0.5 < LexicalScores(pairs).scores(pairs)[0][0] < 1


@pytest.mark.real_data
def test_on_product_records_letters_and_features_reach_what_is_published_of_tfidf(shared_data: Path) -> None:
    folder = shared_data / "walmart_amazon"
    if not folder.is_dir():
        pytest.skip("no such data set there")
    read = TableConfig(text_columns=("left", "right"), label_column="label")
    train, valid = (load_table(folder / f"{part}.jsonl.gz", read, BINARY) for part in ("train", "valid"))
    found = baseline_metrics(train, valid, BINARY)
    assert found["TF-IDF letters"]["f1"] > 0.6 and found["simple features"]["f1"] > 0.64
    assert found["TF-IDF letters"]["average_precision"] > found["BM25"]["average_precision"]
