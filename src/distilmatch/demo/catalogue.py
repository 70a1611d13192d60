"""A generated catalogue: shoppers' queries against products, with labels that are true by construction.

A product matches a query when it meets every one of the query's wishes: the type of thing, brand, colour, material,
size or capacity, pack, what it must fit, parts it must have or must not have, a colour or brand that it must not be.
Most products that do not match fail by one wish alone, both texts choose their words on their own (navy, dark blue;
0.5 l, 500 ml), and products mention colours, sizes and devices that they do not have ("also sold in red"), so that
shared words tell little: the two texts have to be read together.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from distilmatch.demo.words import BRANDS, CATEGORIES, Category, Forms
from distilmatch.errors import ConfigError
from distilmatch.files import write_atomically

PAIRS_PER_QUERY = 5
MATCHES = 2  # of a query's pairs; then one or two that fail by one wish; the rest fail by more
_SPLIT_SHARE = {"train": 0.2, "dev": 0.05, "test": 0.1}  # of the products, met in one split only
_SCANNED = 1500
_ATTEMPTS = 5000
_MISSPELT = 0.06
_NEGATED = 0.12
_ASIDES = 0.2
_USUAL_FORM = 0.7  # how often the first way to say a thing is taken


@dataclass(frozen=True)
class DemoPaths:
    """Where the parts of a generated catalogue lie.

    Attributes:
        train, dev, test: JSONL with query, product, label (0 or 1), query_id, product_id; no query is in two of them.
        products, queries: JSONL with id, text.
    """

    train: Path
    dev: Path
    test: Path
    products: Path
    queries: Path


@dataclass(frozen=True, kw_only=True)
class _Product:
    id: str
    category: int
    values: dict[str, Any]  # attribute -> index of its value; feature -> bool; "brand" -> index
    text: str


@dataclass(frozen=True)
class _Wish:
    attribute: str
    value: Any
    negated: bool = False

    def met(self, product: _Product) -> bool:
        category = CATEGORIES[product.category]
        if self.attribute == "type":
            return product.category == self.value
        if self.attribute not in product.values:
            return False
        value = product.values[self.attribute]
        if self.attribute in category.values:
            value = category.values[self.attribute][value]
        return (value == self.value) != self.negated


def write_demo_catalogue(
    folder: str | Path,
    *,
    seed: int = 0,
    train_pairs: int = 3000,
    dev_pairs: int = 500,
    test_pairs: int = 800,
    products: int = 600,
    graded: bool = False,
    simple: bool = False,
    short: bool = False,
) -> DemoPaths:
    """Writes a catalogue of query-product pairs; the same arguments give the same bytes.

    A query has five pairs: two products that match, one or two that fail by one wish, the rest by more. Numbers of
    pairs are rounded up to whole queries.

    Args:
        folder: made if need be; files of the same names are replaced.
        seed: of everything that is drawn.
        train_pairs, dev_pairs, test_pairs: how many pairs each split has.
        products: how many products the pairs are drawn from; two thirds of them may occur in every split.
        simple: queries ask for a type and one or two of brand, colour and material, with nothing negated or misspelt;
            a student learns them in minutes.
        short: products are titles, of type, brand, colour and material alone; with `simple`, which asks for no more.
        graded: adds a column `relevance`: 3 for a match, 2 where one wish fails, 1 for the right type of product, 0.

    Raises:
        ConfigError: a number that is too small, or more queries than this catalogue can tell apart.
    """
    sizes = {"train": train_pairs, "dev": dev_pairs, "test": test_pairs}
    if short and not simple:
        raise ConfigError("the demo catalogue's titles (`short`) do not say what its queries ask for: add `simple`")
    if min(sizes.values()) < 1:
        raise ConfigError("the demo catalogue needs one pair or more in each of train, dev and test")
    if products < 20 * len(CATEGORIES):
        raise ConfigError(f"the demo catalogue needs {20 * len(CATEGORIES)} products or more, not {products}")
    draw = random.Random(seed)
    catalogue = _make_products(products, draw, short)
    pools = _share_out(catalogue, draw)
    folder = Path(folder)
    told: dict[str, str] = {}
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in sizes}
    for split, pairs in sizes.items():
        # A set of wishes belongs to one split, so that no split repeats what another asks for in other words.
        finder = _Finder(split, pools[split], _Splitter(seed, sizes), draw)
        for _ in range(-(-pairs // PAIRS_PER_QUERY)):
            wishes, text, candidates = _new_query(finder, draw, told, simple)
            query_id = f"Q{len(told) + 1:06d}"
            told[text] = query_id
            rows[split] += _pairs(query_id, text, wishes, candidates, graded)
        draw.shuffle(rows[split])
    for split in sizes:
        _write_lines(folder / f"{split}.jsonl", rows[split])
    _write_lines(folder / "products.jsonl", ({"id": product.id, "text": product.text} for product in catalogue))
    _write_lines(folder / "queries.jsonl", ({"id": query_id, "text": text} for text, query_id in told.items()))
    names = ("train", "dev", "test", "products", "queries")
    return DemoPaths(**{name: folder / f"{name}.jsonl" for name in names})


def _write_lines(path: Path, rows: Sequence[dict[str, Any]] | Iterator[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _pairs(
    query_id: str, text: str, wishes: tuple[_Wish, ...], candidates: list[_Product], graded: bool
) -> Iterator[dict[str, Any]]:
    for product in candidates:
        failed = [wish.attribute for wish in wishes if not wish.met(product)]
        row = {
            "query": text,
            "product": product.text,
            "label": int(not failed),
            "query_id": query_id,
            "product_id": product.id,
        }
        if graded:
            row["relevance"] = 3 - len(failed) if len(failed) < 2 else int("type" not in failed)
        yield row


# --- products ------------------------------------------------------------------------------------------------------


def _make_products(count: int, draw: random.Random, short: bool) -> list[_Product]:
    made: dict[str, _Product] = {}
    attempts = 0
    while len(made) < count:
        attempts += 1
        if attempts > 50 * count:
            raise ConfigError(f"the demo catalogue cannot tell {count} products apart; ask for fewer")
        number = len(made) % len(CATEGORIES)
        category = CATEGORIES[number]
        values: dict[str, Any] = {"brand": draw.choice(category.brands)}
        values |= {name: draw.randrange(len(choices)) for name, choices in category.values.items()}
        values |= {feature: draw.random() < 0.5 for feature in category.features}
        text = _title(category, values, draw) if short else _product_text(category, values, draw)
        if text not in made:
            made[text] = _Product(id=f"P{len(made) + 1:06d}", category=number, values=values, text=text)
    return list(made.values())


def _say(forms: Forms, draw: random.Random) -> str:
    return forms[0] if draw.random() < _USUAL_FORM else draw.choice(forms)


def _title(category: Category, values: dict[str, Any], draw: random.Random) -> str:
    said = [
        _say(category.values[name][values[name]], draw) for name in ("colour", "material") if name in category.values
    ]
    return " ".join([BRANDS[values["brand"]], *said, _say(category.names, draw)])


def _product_text(category: Category, values: dict[str, Any], draw: random.Random) -> str:
    said = {name: _say(choices[values[name]], draw) for name, choices in category.values.items()}
    kind, brand = _say(category.names, draw), BRANDS[values["brand"]]
    title = [brand]
    phrases: list[str] = []
    for name in ("colour", "material"):
        if name in said and draw.random() < 0.5:
            title.append(said.pop(name))
    title.append(kind)
    if "fits" in said and draw.random() < 0.6:
        title.append(f"for {said.pop('fits')}")
    for name, form in said.items():
        phrases.append(draw.choice(_PRODUCT_PHRASES[name]).format(form))
    for feature in category.features:
        has = values[feature]
        phrases.append(draw.choice(_HAS if has else _HAS_NOT).format(feature))
    draw.shuffle(phrases)
    description = ", ".join(phrases)
    sentences = [" ".join(title), description[0].upper() + description[1:]]
    if draw.random() < _ASIDES:
        sentences.append(_aside(category, values, draw))
    return ". ".join(sentences) + "."


_PRODUCT_PHRASES: dict[str, Forms] = {
    "colour": ("colour: {}", "in {}", "finished in {}"),
    "material": ("made of {}", "material: {}", "{} quality"),
    "capacity": ("holds {}", "capacity {}", "volume {}"),
    "size": ("{}", "fit: {}"),
    "seats": ("{}",),
    "pack": ("{}", "sold as {}"),
    "length": ("cable {}", "{} of cable"),
    "fits": ("fits {}", "compatible with {}", "made for {}"),
}
_HAS = ("with {}", "{} included", "has {}")
_HAS_NOT = ("without {}", "no {}")


def _aside(category: Category, values: dict[str, Any], draw: random.Random) -> str:
    """A sentence about what the product is not: words that a query may well hold."""
    name = draw.choice(list(category.values))
    others = [forms for i, forms in enumerate(category.values[name]) if i != values[name]]
    other = draw.choice(draw.choice(others))
    if name == "fits":
        return draw.choice(("Does not fit {}", "Not for {}")).format(other)
    if name == "colour":
        return draw.choice(("Also sold in {}", "See our shop for the {} one")).format(other)
    return draw.choice(("Other versions: {}", "Ask us for the other model ({})")).format(other)


def _share_out(catalogue: list[_Product], draw: random.Random) -> dict[str, list[_Product]]:
    shuffled = draw.sample(catalogue, len(catalogue))
    pools: dict[str, list[_Product]] = {}
    start = 0
    for split, share in _SPLIT_SHARE.items():
        end = start + round(share * len(shuffled))
        pools[split] = shuffled[start:end]
        start = end
    return {split: pools[split] + shuffled[start:] for split in pools}


# --- queries -------------------------------------------------------------------------------------------------------


class _Splitter:
    """Gives every set of wishes to one split, whatever its wording, in about the shares of the splits."""

    def __init__(self, seed: int, sizes: dict[str, int]) -> None:
        self._seed = seed
        self._splits = list(sizes)
        self._weights = [max(size, 0.05 * sum(sizes.values())) for size in sizes.values()]

    def split_of(self, wishes: tuple[_Wish, ...]) -> str:
        """The only split that may hold a query with these wishes."""
        draw = random.Random(f"{self._seed} {sorted(map(repr, wishes))}")
        return draw.choices(self._splits, self._weights)[0]


class _Finder:
    """Products of one split that meet all wishes, all but one, or fewer."""

    def __init__(self, split: str, pool: list[_Product], splitter: _Splitter, draw: random.Random) -> None:
        self.pool = pool
        self._split = split
        self._splitter = splitter
        self._draw = draw
        self._of_category: dict[int, list[_Product]] = {}
        for product in pool:
            self._of_category.setdefault(product.category, []).append(product)

    def find(self, wishes: tuple[_Wish, ...]) -> list[_Product] | None:
        """A query's products; None where the pool has too few of a kind, or the wishes belong to another split."""
        if self._splitter.split_of(wishes) != self._split:
            return None
        same = self._of_category[wishes[0].value]
        other = self._draw.sample(self.pool, min(len(self.pool), _SCANNED))
        by_failures: dict[int, list[_Product]] = {0: [], 1: [], 2: []}
        for product in chain(self._draw.sample(same, min(len(same), _SCANNED)), other):
            failures = min(2, sum(not wish.met(product) for wish in wishes))
            by_failures[failures].append(product)
        wrong_type = [product for product in by_failures[1] if product.category != wishes[0].value]
        wrong_wish = [product for product in by_failures[1] if product.category == wishes[0].value]
        near = _distinct(wrong_wish[:1] + (wrong_type[:1] if self._draw.random() < 0.25 else []) + wrong_wish)
        right_type = self._draw.random() < 0.5
        far = [p for p in by_failures[2] if (p.category == wishes[0].value) == right_type] or by_failures[2]
        misses = self._draw.choice((1, 2))
        chosen = (
            _distinct(by_failures[0])[:MATCHES],
            near[:misses],
            _distinct(far)[: PAIRS_PER_QUERY - MATCHES - misses],
        )
        candidates = [product for group in chosen for product in group]
        return candidates if len(candidates) == PAIRS_PER_QUERY else None


def _distinct(products: list[_Product]) -> list[_Product]:
    return list({product.id: product for product in products}.values())


def _new_query(
    finder: _Finder, draw: random.Random, told: dict[str, str], simple: bool
) -> tuple[tuple[_Wish, ...], str, list[_Product]]:
    for _ in range(_ATTEMPTS):
        wishes = _wishes(draw.choice(finder.pool), draw, simple)
        candidates = finder.find(wishes)
        if candidates is None:
            continue
        text = _query_text(wishes, draw, simple)
        if text not in told:
            return wishes, text, candidates
    raise ConfigError(
        f"the demo catalogue runs out of new queries after {len(told)}; ask for fewer pairs, or for more products"
    )


def _wishes(target: _Product, draw: random.Random, simple: bool) -> tuple[_Wish, ...]:
    """The type and two or three more wishes that `target` meets."""
    category = CATEGORIES[target.category]
    names = ["brand", *category.values, draw.choice(category.features)]
    if simple:
        names = [name for name in names if name in _PLAIN]
    wishes = [_Wish("type", target.category)]
    for name in draw.sample(names, min(len(names), draw.choice((1, 2) if simple else (1, 2, 2, 3)))):
        value = target.values[name]
        negated = not simple and name in _PLAIN and draw.random() < _NEGATED
        if name == "brand":
            if negated:
                value = draw.choice([brand for brand in category.brands if brand != value])
        elif name in category.values:
            choices = category.values[name]
            if negated:
                value = draw.choice([i for i in range(len(choices)) if i != value])
            value = choices[value]
        wishes.append(_Wish(name, value, negated))
    return tuple(wishes)


_PLAIN = ("brand", "colour", "material")
_OPENERS = ("", "", "", "looking for a ", "I need a ", "buy ")
_NOT = ("not {}", "but not {}", "anything but {}")


def _query_text(wishes: tuple[_Wish, ...], draw: random.Random, simple: bool) -> str:
    category = CATEGORIES[wishes[0].value]
    before: list[str] = []
    after: list[str] = []
    last: list[str] = []
    for wish in wishes[1:]:
        if wish.attribute in category.features:
            after.append(
                draw.choice(("with {}", "that has {}") if wish.value else ("without {}", "no {}")).format(
                    wish.attribute
                )
            )
            continue
        form = BRANDS[wish.value] if wish.attribute == "brand" else _say(wish.value, draw)
        if wish.negated:
            last.append(draw.choice(_NOT).format(form))
            continue
        front, phrases = _QUERY_PHRASES[wish.attribute]
        if front and draw.random() < 0.6:
            before.append(form)
        else:
            after.append(draw.choice(phrases).format(form))
    draw.shuffle(before)
    draw.shuffle(after)
    text = draw.choice(_OPENERS) + " ".join([*before, _say(category.names, draw), *after])
    return ", ".join([_misspell(text, draw) if not simple and draw.random() < _MISSPELT else text, *last])


_QUERY_PHRASES: dict[str, tuple[bool, Forms]] = {  # may it stand before the noun; how it is said after it
    "brand": (True, ("by {}", "from {}")),
    "colour": (True, ("in {}",)),
    "material": (True, ("made of {}", "in {}")),
    "size": (False, ("{}", "in {}")),
    "capacity": (True, ("{}", "that holds {}")),
    "pack": (False, ("{}",)),
    "seats": (False, ("{}",)),
    "length": (False, ("{}", "with {} cable")),
    "fits": (False, ("for {}", "for my {}", "that fits {}")),
}


def _misspell(text: str, draw: random.Random) -> str:
    """Swaps or drops a letter inside one of the longer words; numbers stay."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    i = draw.choice(long)
    word = words[i]
    at = draw.randrange(1, len(word) - 2)
    change: Callable[[], str] = draw.choice(
        (lambda: word[:at] + word[at + 1] + word[at] + word[at + 2 :], lambda: word[:at] + word[at + 1 :])
    )
    words[i] = change()
    return " ".join(words)
