"""The units of a text: words where spaces part them, characters and short runs of these in scripts that write none.

A text is cut at its white space first. What stands between is one unit, a word, unless it holds characters of a script
written without spaces (`_SCRIPTS`, ranges of the Unicode Character Database's Blocks.txt). These are cut thus:

- Han: each character. Katakana: a run of them, which is a word. Hiragana: a character with the small ones after it.
- Thai, Lao, Khmer, Myanmar: two clusters. A cluster is a letter with the vowels and marks that are written around it: the
  cuts never part a mark from its letter, nor a vowel that is written before its letter from that letter.
- Anything else between them, such as a Latin name or a number, is a word.
- Punctuation stays with the unit before it, an opening bracket with the unit after it.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["word", "han", "hiragana", "katakana", "cluster"]

_SCRIPTS: tuple[tuple[int, int, Kind], ...] = (
    (0x0E00, 0x0EFF, "cluster"),  # Thai, Lao
    (0x1000, 0x109F, "cluster"),  # Myanmar
    (0x1780, 0x17FF, "cluster"),  # Khmer
    (0x2E80, 0x2FDF, "han"),  # radicals
    (0x3005, 0x3007, "han"),
    (0x3040, 0x309F, "hiragana"),
    (0x30A0, 0x30FF, "katakana"),
    (0x31F0, 0x31FF, "katakana"),
    (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"),
    (0xA9E0, 0xA9FF, "cluster"),  # Myanmar
    (0xAA60, 0xAA7F, "cluster"),
    (0xF900, 0xFAFF, "han"),
    (0xFF66, 0xFF9F, "katakana"),  # half as wide
    (0x1B000, 0x1B12F, "hiragana"),
    (0x20000, 0x323AF, "han"),
)
_STARTS = [first for first, _, _ in _SCRIPTS]
_UNSPACED = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last, _ in _SCRIPTS)}]")
_WORDS = re.compile(r"(\s*)(\S+)")
_SMALL_KANA = frozenset("ぁぃぅぇぉっゃゅょゎゕゖー゛゜ゝゞ")
_BEFORE = frozenset("เแโใไເແໂໃໄ")  # vowels that are written before their letter
# Vowels and signs of Thai and Lao that are written after their letter and are letters to Unicode.
_AFTER = frozenset("ะาำๅๆฯະາຳຽໆຯ")
_STACKING = frozenset("\u17d2\u1039")  # the next letter stands below
_CLUSTERS = 2


@dataclass(frozen=True)
class Unit:
    """A unit of a text.

    Attributes:
        text: without white space.
        before: the white space before it, which may be none.
        word: whether spaces part it from its like.
    """

    text: str
    before: str
    word: bool


def split_units(text: str) -> tuple[list[Unit], str]:
    """The units of a text, and the white space at its end: `join_units` of both is the text."""
    units: list[Unit] = []
    end = 0
    for match in _WORDS.finditer(text):
        before, run = match.groups()
        end = match.end()
        if _UNSPACED.search(run) is None:
            units.append(Unit(run, before, True))
        else:
            parts = _with_punctuation(_parts(run))
            units += [replace(part, before=before if place == 0 else "") for place, part in enumerate(parts)]
    return units, text[end:]


def join_units(units: Sequence[Unit], end: str = "") -> str:
    """The text of units as they are, and the white space at its end."""
    return "".join(unit.before + unit.text for unit in units) + end


def rejoin_units(units: Sequence[Unit]) -> str:
    """The text of units that have been dropped, repeated or moved: one space where white space stood before a unit, and
    between two words.
    """
    parts = []
    for place, unit in enumerate(units):
        spaced = place > 0 and (unit.before != "" or (unit.word and units[place - 1].word))
        parts.append(f" {unit.text}" if spaced else unit.text)
    return "".join(parts)


def _kind(character: str) -> Kind:
    """What a character is cut as."""
    place = bisect_right(_STARTS, ord(character)) - 1
    if place < 0 or ord(character) > _SCRIPTS[place][1] or unicodedata.category(character) in ("Nd", "Sc"):
        return "word"
    return _SCRIPTS[place][2]


def _parts(run: str) -> list[Unit]:
    """The units of a run without white space, punctuation apart."""
    parts: list[Unit] = []
    clusters = 0  # of the last unit
    last: Kind | None = None
    for place, character in enumerate(run):
        kind = _kind(character)
        goes_on = last is not None and _goes_on(run, place, last, kind)
        if not goes_on and kind == last == "cluster" and clusters < _CLUSTERS:
            goes_on, clusters = True, clusters + 1
        if goes_on:
            parts[-1] = replace(parts[-1], text=parts[-1].text + character)
        else:
            parts.append(Unit(character, "", kind == "word"))
            clusters, last = 1, kind
    return parts


def _goes_on(run: str, place: int, last: Kind, kind: Kind) -> bool:
    """Whether a character belongs to what stands before it: the same word, or the letter that it is written around."""
    character, before = run[place], run[place - 1]
    if unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf") or character in _AFTER:
        return True
    if kind != last:
        # The long mark of kana lies in one block and follows both kinds.
        return last in ("hiragana", "katakana") and character == "ー"
    if kind == "hiragana":
        return character in _SMALL_KANA
    if kind == "cluster":
        return before in _BEFORE or before in _STACKING
    return kind in ("word", "katakana")


def _with_punctuation(parts: Sequence[Unit]) -> list[Unit]:
    """The units with punctuation put to its neighbours."""
    whole: list[Unit] = []
    opening = ""
    for part in parts:
        signs = all(unicodedata.category(character)[0] == "P" for character in part.text)
        if signs and unicodedata.category(part.text[-1]) in ("Ps", "Pi"):
            opening += part.text
        elif signs and whole and not opening:
            whole[-1] = replace(whole[-1], text=whole[-1].text + part.text)
        else:
            whole.append(replace(part, text=opening + part.text))
            opening = ""
    if opening:
        whole.append(Unit(opening, "", True))
    return whole
