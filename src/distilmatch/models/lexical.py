"""What a text says to the letter: its words, numbers and codes as one vector of fixed width, compared by products.

An encoder cuts "dcr-hc9" into pieces whose outputs look much like those of "dcr-hc8"; here the two share nothing. Terms are
put into a vector by a hash with a sign (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning",
equation 1), so that the product of two texts' vectors is the weight of what they share, up to collisions, and costs a
pair one product.

Shape legend: n texts; d width.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

KINDS = ("words", "numbers", "codes")
FLAGS = 2  # the last numbers of a vector: whether there are numbers, and codes

_WORD = re.compile(r"\w+")
_JOINED = re.compile(r"\w+(?:[-./]\w+)*")
_JOINS = re.compile(r"[-./_]")
_DIGIT = re.compile(r"\d")
_SHORTEST_CODE = 4
_BUCKETS = 1 << 16  # in which it is counted how many texts have a term
_PLACE_BITS, _SIGN_BIT = 16, 31
_CHUNK = 4096  # texts whose terms are held at once


def has_number(text: str) -> bool:
    """Whether a text has a digit."""
    return _DIGIT.search(text) is not None


def lexical_bounds(width: int) -> tuple[int, ...]:
    """Where the words, the numbers and the codes of a vector begin, and where they end: a third of it are numbers, a quarter
    codes, the rest but for the flags words.
    """
    numbers, codes = width // 3, width // 4
    words = width - FLAGS - numbers - codes
    return 0, words, words + numbers, words + numbers + codes


class LexicalVectors(nn.Module):
    """Makes (n, d) vectors of texts: three parts of length one, or zero where a text has no such term, and two flags.

    *Words* are runs of letters and digits in lower case. *Numbers* are words with a digit, with what a hyphen, a point or a
    slash joins to them, these left out: "MK-1234/b" is mk1234b. *Codes* are numbers of four characters or more with a
    letter. A term weighs `(1 + ln tf) (1 + ln((1 + t) / (1 + df)))`, where df of the t texts that were counted have it,
    as in `distilmatch.teachers.LexicalScores`: a term that none of them has counts as the rarest.

    Attributes:
        found: (buckets,) int32, how many of the counted texts have a term of the bucket; counted: (1,) int64, t. Whole numbers,
            which no change of dtype rounds.
    """

    found: torch.Tensor
    counted: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("found", torch.zeros(_BUCKETS, dtype=torch.int32))
        self.register_buffer("counted", torch.zeros(1, dtype=torch.int64))

    @torch.no_grad()
    def count(self, texts: Sequence[str]) -> None:
        """Counts anew how many of n texts have each term: what makes a term rare."""
        found = np.zeros(_BUCKETS, dtype=np.int64)
        for start in range(0, len(texts), _CHUNK):
            for text, term in _terms(_part(texts, start)):
                distinct = np.unique(text << 32 | term)
                found += np.bincount(distinct % _BUCKETS, minlength=_BUCKETS)
        self.found.copy_(torch.from_numpy(found.astype(np.int32)))
        self.counted.fill_(len(texts))

    def vectors(self, texts: Sequence[str]) -> torch.Tensor:
        """(n, d) float32 on the CPU."""
        found = self.found.cpu().numpy()
        made = np.zeros((len(texts), self.width), dtype=np.float32)
        for start in range(0, len(texts), _CHUNK):
            self._fill(made[start : start + _CHUNK], _part(texts, start), found)
        return torch.from_numpy(made)

    def _fill(self, made: np.ndarray, texts: Sequence[str], found: np.ndarray) -> None:
        """Writes the vectors of n texts into `made`, (n, d) zeros; `found` is the attribute as an array."""
        counted = float(self.counted)
        flags = {1: -2, 2: -1}  # of numbers and codes
        for kind, ((start, end), (text, term)) in enumerate(
            zip(pairwise(lexical_bounds(self.width)), _terms(texts), strict=True)
        ):
            distinct, times = np.unique(text << 32 | term, return_counts=True)
            row, key = distinct >> 32, distinct & 0xFFFFFFFF
            rarity = 1 + np.log((1 + counted) / (1 + np.minimum(found[key % _BUCKETS], counted)))
            signed = np.where(key >> _SIGN_BIT, 1.0, -1.0) * (1 + np.log(times)) * rarity
            size = end - start
            place = row * size + (key >> _PLACE_BITS & 0x7FFF) % size
            part = np.bincount(place, weights=signed, minlength=len(texts) * size).reshape(len(texts), size)
            made[:, start:end] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
            if kind in flags:
                made[row, flags[kind]] = 1


def _part(texts: Sequence[str], start: int) -> list[str]:
    """The texts of the chunk that begins at `start`."""
    return [texts[i] for i in range(start, min(start + _CHUNK, len(texts)))]


def _terms(texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each kind, in the order of `KINDS`, (all,) int64 numbers of the texts and (all,) int64 hashes of 32 bits."""
    hashes: dict[tuple[int, str], int] = {}
    text_of: tuple[list[int], ...] = ([], [], [])
    term_of: tuple[list[int], ...] = ([], [], [])
    for number, text in enumerate(texts):
        for kind, terms in enumerate(_terms_of(text)):
            for term in terms:
                key = hashes.get((kind, term))
                if key is None:
                    key = hashes[kind, term] = zlib.crc32(term.encode("utf-8", "surrogatepass"), kind)
                text_of[kind].append(number)
                term_of[kind].append(key)
    return [
        (np.array(text_of[kind], dtype=np.int64), np.array(term_of[kind], dtype=np.int64)) for kind in range(len(KINDS))
    ]


def _terms_of(text: str) -> tuple[list[str], list[str], list[str]]:
    """The words, numbers and codes of a text, as often as they stand there."""
    lower = text.lower()
    numbers = []
    if _DIGIT.search(lower):
        joined = (_JOINS.sub("", run) for run in _JOINED.findall(lower) if _DIGIT.search(run))
        numbers = [term for term in joined if term]
    codes = [term for term in numbers if len(term) >= _SHORTEST_CODE and any(map(str.isalpha, term))]
    return _WORD.findall(lower), numbers, codes
