"""Scores of pairs by the words that they share, with no model: the cosine of TF-IDF vectors, and BM25.

Both learn from a table how rare a term is and read no label. A term that this table lacks counts as the rarest, so that
two texts that share a name or a number seen nowhere else still match.

Shape legend: n rows; t distinct texts; v terms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from distilmatch.types import TupleTable

Unit = Literal["words", "characters"]
UNITS: tuple[Unit, ...] = ("words", "characters")

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"\w+")
_LONGEST_WORD = 12.0  # mean length from which a text is taken to be written without spaces
_SAMPLE = 1000
_CHUNK = 8192  # pairs multiplied at once
_ASKING = 256  # texts that are compared with all others at once
_BITS = 31  # of a word's number
_CHARACTER_BITS = 21  # of a character's


def unit_of(table: TupleTable) -> Unit:
    """The unit that suits a table's texts: characters where they are written without spaces, else words."""
    texts = [table.texts[i] for i in np.unique(table.rows)[:_SAMPLE]]
    words = [word for text in texts for word in _WORD.findall(text)]
    longest = sum(map(len, words)) / len(words) if words else 0.0
    return "characters" if longest > _LONGEST_WORD else "words"


class LexicalScores:
    """TF-IDF cosine and BM25 of pairs, by how rare the terms are in the texts of a table.

    *TF-IDF cosine.* A term of a text weighs `(1 + ln tf) (1 + ln((1 + t) / (1 + df)))`, where df of the t distinct texts of
    the table have it; the score is the cosine of two texts' weights, as of scikit-learn's `TfidfVectorizer` with
    `sublinear_tf=True` and `ngram_range=(1, 2)`, or `(3, 3)` and `analyzer="char_wb"`. It is the same when left and right are
    exchanged.

    *BM25.* The right text is the document, the left one the query: the sum over the query's terms, each as often as it stands
    there, of `idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length))` with
    `idf = ln(1 + (t - df + 0.5) / (df + 0.5))` over the t distinct right texts of the table (Robertson and Zaragoza 2009,
    section 3.5; the 1 inside the logarithm, which keeps it above 0, is Lucene's). Exchanged, the two have another score.

    Args:
        table: whose texts say how rare a term is.
        unit: terms are "words", that is words and single marks, in lower case, and for TF-IDF two neighbouring ones too; or
            "characters", that is three in a row within a word with a space at both its ends, in lower case.
        k1, b: how soon a repeated term stops to count in BM25, and how much a long document loses.
    """

    def __init__(self, table: TupleTable, unit: Unit = "words", *, k1: float = 1.2, b: float = 0.75) -> None:
        self.unit: Unit = unit
        self._k1, self._b = k1, b
        self._numbers: dict[str, int] = {}
        used = np.unique(table.rows[:, :2])
        single, pairs = _terms([table.texts[i] for i in used], unit, self._numbers)
        self._texts = _Frequencies.of(_counted([single, pairs], len(used)))
        # The right texts are numbered anew, the terms of others left out.
        right = np.unique(table.rows[:, 1])
        place = np.full(len(used), -1)
        place[np.searchsorted(used, right)] = np.arange(len(right))
        documents = _counted([_Terms(place[single.text], single.key).known()], len(right))
        self._documents = _Frequencies.of(documents)
        self._mean_length = max(float(documents.counts.sum()) / max(len(right), 1), 1e-12)

    def scores(self, table: TupleTable) -> tuple[np.ndarray, np.ndarray]:
        """The scores of the first two texts of each row: the TF-IDF cosine, (n,) float32 from 0 to 1, and BM25, (n,) float32, 0
        or more. A text without a term has 0 with any other.
        """
        used, places = np.unique(table.rows[:, :2], return_inverse=True)
        rows = places.reshape(len(table), 2)
        # Numbers of unseen words are this call's own, so that threads may share the scorer.
        single, pairs = _terms([table.texts[i] for i in used], self.unit, dict(self._numbers))
        counted = _counted([single], len(used))
        with_pairs = _counted([single, pairs], len(used)) if len(pairs.key) else counted
        return self._cosine(with_pairs, rows), self._bm25(counted, rows)

    def nearest(self, left: Sequence[str], right: Sequence[str], k: int) -> np.ndarray:
        """(n, min(k, m)) int64 positions of the `right` texts with the largest TF-IDF cosine to each of the `left`, best first.

        Args:
            left, right: n and m texts.
        """
        texts = [*left, *right]
        single, pairs = _terms(texts, self.unit, dict(self._numbers))
        weights = self._weights(_counted([single, pairs], len(texts)))
        asking, others = weights[: len(left)], weights[len(left) :].T.tocsr()
        k = min(k, len(right))
        best = np.empty((len(left), k), dtype=np.int64)
        for start in range(0, len(left), _ASKING):
            cosines = (asking[start : start + _ASKING] @ others).toarray()
            some = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(cosines, some, axis=1), axis=1, kind="stable")
            best[start : start + _ASKING] = np.take_along_axis(some, order, axis=1)
        return best

    def _cosine(self, counted: _Counted, rows: np.ndarray) -> np.ndarray:
        weights = self._weights(counted)
        return np.clip(_products(weights, weights, rows), 0, 1).astype(np.float32)

    def _weights(self, counted: _Counted) -> sparse.csr_array:
        """(t, v) weights of terms, each row of length one."""
        rarity = 1 + np.log((1 + self._texts.texts) / (1 + self._texts.look_up(counted.terms)))
        weights = counted.counts.copy()
        weights.data = (1 + np.log(weights.data)) * rarity[weights.indices]
        lengths = np.sqrt(np.bincount(_row_of(weights), weights=weights.data**2, minlength=weights.shape[0]))
        weights.data /= np.maximum(lengths, 1e-12)[_row_of(weights)]
        return weights

    def _bm25(self, counted: _Counted, rows: np.ndarray) -> np.ndarray:
        found = self._documents.look_up(counted.terms)
        rarity = np.log1p((self._documents.texts - found + 0.5) / (found + 0.5))
        counts = counted.counts
        lengths = np.bincount(_row_of(counts), weights=counts.data, minlength=counts.shape[0])
        slowed = self._k1 * (1 - self._b + self._b * lengths / self._mean_length)
        weights = counts.copy()
        weights.data = rarity[counts.indices] * counts.data * (self._k1 + 1) / (counts.data + slowed[_row_of(counts)])
        return _products(counts, weights, rows).astype(np.float32)


@dataclass(frozen=True)
class _Terms:
    """Terms as they stand: (all,) int64 numbers of their texts, below 0 for one that is left out, and (all,) int64 keys."""

    text: np.ndarray
    key: np.ndarray

    def known(self) -> _Terms:
        """Those of the texts that are not left out."""
        return _Terms(self.text[self.text >= 0], self.key[self.text >= 0])


@dataclass(frozen=True)
class _Counted:
    """(t, v) float64 counts, and the (v,) int64 keys of the terms, ascending."""

    counts: sparse.csr_array
    terms: np.ndarray


@dataclass(frozen=True)
class _Frequencies:
    """How many of `texts` texts have each of (v,) int64 terms, which ascend."""

    texts: int
    terms: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, counted: _Counted) -> _Frequencies:
        """From the counts of the texts."""
        found = np.bincount(counted.counts.indices, minlength=len(counted.terms))
        return cls(counted.counts.shape[0], counted.terms, found)

    def look_up(self, terms: np.ndarray) -> np.ndarray:
        """(w,) int64 frequencies of (w,) terms; 0 for one that is not there."""
        if not len(self.terms):
            return np.zeros(len(terms), dtype=np.int64)
        place = np.minimum(np.searchsorted(self.terms, terms), len(self.terms) - 1)
        return np.where(self.terms[place] == terms, self.found[place], 0)


def _terms(texts: list[str], unit: Unit, numbers: dict[str, int]) -> tuple[_Terms, _Terms]:
    """Single words and pairs of them; or three characters in a row and nothing. Words that `numbers` lacks are added to it."""
    if unit == "characters":
        return _trigrams(texts), _Terms(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    tokens = [[numbers.setdefault(token, len(numbers)) for token in _TOKEN.findall(text.lower())] for text in texts]
    text = np.repeat(np.arange(len(texts)), [len(each) for each in tokens])
    flat = np.fromiter((number for each in tokens for number in each), dtype=np.int64, count=len(text))
    return _grams(text, flat + 1, 1, _BITS), _grams(text, flat + 1, 2, _BITS)


def _trigrams(texts: list[str]) -> _Terms:
    padded = [f" {'  '.join(text.lower().split())} " for text in texts]
    text = np.repeat(np.arange(len(texts)), [len(each) for each in padded])
    characters = "".join(padded).encode("utf-32-le", "surrogatepass")
    flat = np.frombuffer(characters, dtype="<u4").astype(np.int64)
    made = _grams(text, flat, 3, _CHARACTER_BITS)
    # Two spaces in a row stand between words alone; a term with both is no part of a word.
    middle, last = made.key >> _CHARACTER_BITS, made.key
    mask, space = (1 << _CHARACTER_BITS) - 1, ord(" ")
    between = (middle & mask == space) & ((last & mask == space) | (middle >> _CHARACTER_BITS == space))
    return _Terms(made.text[~between], made.key[~between])


def _grams(text: np.ndarray, tokens: np.ndarray, gram: int, bits: int) -> _Terms:
    """Every `gram` neighbouring tokens of a text as one number; none of them is 0, so that no two terms share one."""
    count = max(len(tokens) - gram + 1, 0)
    key = np.zeros(count, dtype=np.int64)
    for place in range(gram):
        key = (key << bits) | tokens[place : place + count]
    whole = text[:count] == text[gram - 1 : gram - 1 + count]
    return _Terms(text[:count][whole], key[whole])


def _counted(terms: list[_Terms], texts: int) -> _Counted:
    text = np.concatenate([each.text for each in terms])
    known, column = np.unique(np.concatenate([each.key for each in terms]), return_inverse=True)
    shape = (texts, len(known))
    counts = sparse.coo_array((np.ones(len(text)), (text, column)), shape=shape).tocsr()
    counts.sum_duplicates()
    return _Counted(counts, known)


def _row_of(matrix: sparse.csr_array) -> np.ndarray:
    """The row of each number that is stored."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _products(left: sparse.csr_array, right: sparse.csr_array, rows: np.ndarray) -> np.ndarray:
    """(n,) products of row `rows[:, 0]` of `left` with row `rows[:, 1]` of `right`."""
    parts = [np.zeros(0)]
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        parts.append(np.asarray(left[chunk[:, 0]].multiply(right[chunk[:, 1]]).sum(axis=1)).ravel())
    return np.concatenate(parts)
