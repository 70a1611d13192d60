"""PriceRunner's offers: which are of one product, split by product, and pairs of them to learn from.

An offer of train meets one other offer of its product, the three nearest offers of other products by TF-IDF, and one at
random: near misses are what de-duplication is about. Dev and test are made alike, of their own offers.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

SHARES = {"train": 0.5, "dev": 0.15, "test": 0.35}
ASKED = {"train": 2000, "dev": 400, "test": 800}
"""Offers of which pairs are made."""
NEAR = 3
_STEP = 512


@cache
def split_offers(folder: Path) -> Mapping[str, list[dict[str, Any]]]:
    """The offers of each split; those of one product are in one."""
    with gzip.open(folder / "offers.jsonl.gz", "rt", encoding="utf-8") as stream:
        offers = [json.loads(line) for line in stream]
    products = sorted({offer["cluster"] for offer in offers})
    order = np.random.default_rng(0).permutation(len(products))
    ends = np.cumsum([round(share * len(products)) for share in SHARES.values()])
    names = np.array(list(SHARES))[
        np.minimum(np.searchsorted(ends, np.arange(len(products)), side="right"), len(SHARES) - 1)
    ]
    split_of = {products[place]: str(name) for place, name in zip(order, names, strict=True)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SHARES}
    for offer in offers:
        found[split_of[offer["cluster"]]].append(offer)
    return found


def rows(folder: Path, split: str) -> Iterable[dict[str, Any]]:
    """Pairs of offers of a split: left, right, and 1 for two of one product."""
    offers = split_offers(folder)[split]
    products = np.unique([offer["cluster"] for offer in offers], return_inverse=True)[1]
    members = defaultdict(list)
    for number, product in enumerate(products.tolist()):
        members[product].append(number)
    random = np.random.default_rng(1)
    several = [number for number, product in enumerate(products.tolist()) if len(members[product]) > 1]
    asked = np.sort(random.permutation(several)[: ASKED[split]])
    vectors = TfidfVectorizer().fit_transform([offer["text"] for offer in offers])
    for start in range(0, len(asked), _STEP):
        block = asked[start : start + _STEP]
        cosines = (vectors[block] @ vectors.T).toarray()
        cosines[products[block][:, None] == products[None, :]] = -1
        near = np.argsort(-cosines, axis=1, kind="stable")[:, :NEAR]
        for number, nearest in zip(block.tolist(), near.tolist(), strict=True):
            own = [other for other in members[int(products[number])] if other != number]
            others = [*nearest, int(random.choice(np.flatnonzero(products != products[number])))]
            for other, label in [(int(random.choice(own)), 1), *((other, 0) for other in others)]:
                yield {"left": offers[number]["text"], "right": offers[other]["text"], "label": label}
