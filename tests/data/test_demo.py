"""The generated catalogue: deterministic, split cleanly, true to its labels, and beyond counting shared words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tests.helpers import read_jsonl

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import load_table
from distilmatch.demo import catalogue as demo_module
from distilmatch.demo.catalogue import DemoPaths, write_demo_catalogue
from distilmatch.demo.words import BRANDS, CATEGORIES
from distilmatch.errors import ConfigError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    return write_demo_catalogue(tmp_path_factory.mktemp("demo"))


def test_sizes_columns_and_shares(demo: DemoPaths) -> None:
    for path, pairs in ((demo.train, 3000), (demo.dev, 500), (demo.test, 800)):
        rows = read_jsonl(path)
        assert len(rows) == pairs
        assert all(list(row) == ["query", "product", "label", "query_id", "product_id"] for row in rows)
        assert np.mean([row["label"] for row in rows]) == pytest.approx(0.4)
    products = {row["id"]: row["text"] for row in read_jsonl(demo.products)}
    queries = {row["id"]: row["text"] for row in read_jsonl(demo.queries)}
    assert len(products) == len(set(products.values())) == 600
    for row in read_jsonl(demo.test):
        assert products[row["product_id"]] == row["product"] and queries[row["query_id"]] == row["query"]


def test_queries_are_disjoint_and_products_partly_shared(demo: DemoPaths) -> None:
    splits = [read_jsonl(path) for path in (demo.train, demo.dev, demo.test)]
    queries = [{row["query"] for row in rows} for rows in splits]
    assert not queries[0] & queries[1] and not queries[0] & queries[2] and not queries[1] & queries[2]
    train, _, test = ({row["product_id"] for row in rows} for rows in splits)
    assert train & test and test - train
    assert np.median(list(Counter(row["product_id"] for row in splits[0]).values())) >= 4
    pairs = Counter((row["query_id"], row["product_id"]) for rows in splits for row in rows)
    assert max(pairs.values()) == 1


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    small = {"train_pairs": 60, "dev_pairs": 20, "test_pairs": 20, "products": 300}
    first, second, other = (write_demo_catalogue(tmp_path / f"{i}", seed=i // 2, **small) for i in range(3))
    for name in ("train", "dev", "test", "products", "queries"):
        assert getattr(first, name).read_bytes() == getattr(second, name).read_bytes()
        assert getattr(first, name).read_bytes() != getattr(other, name).read_bytes()


def test_short_products_say_all_that_simple_queries_ask_for(tmp_path: Path) -> None:
    """From the words alone: a wish is met where the title has one of its forms."""
    paths = write_demo_catalogue(tmp_path, train_pairs=400, dev_pairs=20, test_pairs=20, simple=True, short=True)
    forms: list[tuple[str, ...]] = [(brand,) for brand in BRANDS]
    for category in CATEGORIES:
        forms += [
            category.names,
            *(choice for name in ("colour", "material") for choice in category.values.get(name, ())),
        ]
    forms = list(dict.fromkeys(forms))

    def said(text: str) -> set[tuple[str, ...]]:
        padded = f" {text} "
        return {form for form in forms if any(f" {word} " in padded for word in form)}

    rows = read_jsonl(paths.train)
    assert max(len(row["product"].split()) for row in rows) <= 8
    right = [(said(row["query"]) <= said(row["product"])) == bool(row["label"]) for row in rows]
    assert np.mean(right) > 0.97  # "cup" and "blue" stand inside of other forms
    with pytest.raises(ConfigError, match="add `simple`"):
        write_demo_catalogue(tmp_path / "other", short=True)


def test_labels_follow_from_the_graded_relevance(tmp_path: Path) -> None:
    paths = write_demo_catalogue(tmp_path, train_pairs=500, dev_pairs=5, test_pairs=5, graded=True)
    rows = read_jsonl(paths.train)
    assert all(row["label"] == (row["relevance"] == 3) for row in rows)
    counts = Counter(row["relevance"] for row in rows)
    assert counts[3] == 200 and 100 <= counts[2] <= 200 and counts[1] > 20 and counts[0] > 20
    task = TaskConfig(kind="ranking")
    config = TableConfig(label_column="relevance", id_columns=("query_id", "product_id"))
    table = load_table(paths.train, config, task)
    assert table.queries is not None and len(set(table.queries.tolist())) == 100


def test_negation_in_a_query_is_obeyed(demo: DemoPaths) -> None:
    checked = 0
    for row in read_jsonl(demo.train):
        for feature in sorted({feature for category in CATEGORIES for feature in category.features}):
            wants_none = row["query"].endswith((f"without {feature}", f"no {feature}"))
            text = row["product"].lower()
            has = any(f"{p}" in text for p in (f" with {feature}", f"{feature} included", f"has {feature}"))
            if wants_none and row["label"]:
                assert not has, row
                checked += 1
    assert checked > 20


def test_a_brand_that_is_not_wanted_is_not_matched(demo: DemoPaths) -> None:
    rows = [row for path in (demo.train, demo.dev, demo.test) for row in read_jsonl(path)]
    unwanted = [row for row in rows if row["query"].split(" ")[-2] in ("not", "but")]
    checked = [row for row in unwanted if row["query"].split(" ")[-1] in BRANDS]
    assert len(checked) > 50
    for row in checked:
        assert not (row["label"] and row["product"].startswith(row["query"].split(" ")[-1])), row


def test_shared_words_alone_do_not_tell(demo: DemoPaths) -> None:
    train, test = read_jsonl(demo.train), read_jsonl(demo.test)
    words = TfidfVectorizer(token_pattern=r"\S+").fit([f"{row['query']} {row['product']}" for row in train])

    def parts(rows: list[dict]) -> tuple:
        return words.transform([row["query"] for row in rows]), words.transform([row["product"] for row in rows])

    gold = [row["label"] for row in test]
    query, product = parts(test)
    overlap = np.asarray(query.multiply(product).sum(axis=1))[:, 0]
    assert 0.5 < roc_auc_score(gold, overlap) < 0.8
    bag = LogisticRegression(C=10, max_iter=300).fit(sum(parts(train)), [row["label"] for row in train])
    assert roc_auc_score(gold, bag.decision_function(query + product)) < 0.6


def test_wishes_stay_in_one_split_whatever_their_wording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes_of: dict[str, set] = {}
    new_query = demo_module._new_query

    def noted(finder: Any, *rest: Any) -> Any:
        found = new_query(finder, *rest)
        wishes_of.setdefault(finder._split, set()).add(frozenset(found[0]))
        return found

    monkeypatch.setattr(demo_module, "_new_query", noted)
    write_demo_catalogue(tmp_path, train_pairs=2000, dev_pairs=500, test_pairs=500)
    train, dev, test = (wishes_of[split] for split in ("train", "dev", "test"))
    assert not train & dev and not train & test and not dev & test
    assert len(train) > 300


@pytest.mark.parametrize(
    ("settings", "message"), [({"train_pairs": 0}, "one pair or more"), ({"products": 10}, "160 products or more")]
)
def test_impossible_sizes_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_demo_catalogue(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_running_out_of_queries_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "_ATTEMPTS", 1)
    with pytest.raises(ConfigError, match="runs out of new queries after .*ask for fewer pairs"):
        write_demo_catalogue(tmp_path)
    assert not list(tmp_path.iterdir())
