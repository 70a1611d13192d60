"""Altered copies of texts: small changes that an accurate teacher notices and a careless student does not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from distilmatch.data.text_units import Unit, rejoin_units, split_units

_FIELD_ENDS = ("\n", " | ", "; ")  # what parts the fields of a record that is one text
_DIGIT = re.compile(r"\d")


def perturb(text: str, rng: np.random.Generator, donor: str = "") -> str:
    """A copy of `text`, altered as its kind of text suggests.

    - Of a text with numbers every other time one number: another digit, or a number of the donor's.
    - Of a record, fields that end in a line break, ` | ` or `; `, every fourth time a field: dropped, or moved.
    - Else every other time its beginning with the end of `donor`, or one or two words: dropped, swapped, repeated, or taken from
      `donor`. A text of one word gets a word of the donor, or is repeated. In scripts without spaces a character or a
      short run of them counts as a word (`text_units`).

    A donor of the same kind of text makes natural sentences that no table holds.
    """
    words, _ = split_units(text)
    donated, _ = split_units(donor)
    numbers = [place for place, word in enumerate(words) if _DIGIT.search(word.text)]
    if numbers and rng.random() < 0.5:
        return rejoin_units(_other_number(words, int(rng.choice(numbers)), donated, rng))
    fields, end = _fields(text)
    if len(fields) > 1 and rng.random() < 0.5:
        return end.join(_other_fields(fields, rng))
    if len(words) > 2 and len(donated) > 2 and rng.random() < 0.5:
        share = rng.uniform(0.25, 0.75)
        return rejoin_units(words[: max(1, round(share * len(words)))] + donated[round(share * len(donated)) :])
    for _ in range(int(rng.integers(1, 3))):
        _change_word(words, donated, rng)
    return rejoin_units(words)


def _fields(text: str) -> tuple[list[str], str]:
    """The fields of a record and what parts them; of another text itself alone."""
    for end in _FIELD_ENDS:
        fields = [field for field in text.split(end) if field.strip()]
        if len(fields) > 1:
            return fields, end
    return [text], ""


def _other_fields(fields: list[str], rng: np.random.Generator) -> list[str]:
    """The fields without one of them, or with one in another place."""
    at = int(rng.integers(len(fields)))
    field = fields[at]
    others = fields[:at] + fields[at + 1 :]
    if rng.random() < 0.5:
        return others
    places = [place for place in range(len(fields)) if place != at]
    place = places[int(rng.integers(len(places)))]
    return [*others[:place], field, *others[place:]]


def _other_number(words: list[Unit], at: int, donated: list[Unit], rng: np.random.Generator) -> list[Unit]:
    """The words with another number at `at`: one digit changed, or a number of the donor's."""
    text = words[at].text
    others = [word.text for word in donated if _DIGIT.search(word.text) and word.text != text]
    if others and rng.random() < 0.5:
        changed = others[int(rng.integers(len(others)))]
    else:
        digits = [match.start() for match in _DIGIT.finditer(text)]
        place = digits[int(rng.integers(len(digits)))]
        digit = (int(text[place]) + int(rng.integers(1, 10))) % 10
        changed = f"{text[:place]}{digit}{text[place + 1 :]}"
    return [*words[:at], replace(words[at], text=changed), *words[at + 1 :]]


def _change_word(words: list[Unit], donated: list[Unit], rng: np.random.Generator) -> None:
    kind = rng.choice(["drop", "swap", "repeat", "replace"])
    at = int(rng.integers(len(words))) if words else 0
    if kind == "drop" and len(words) > 1:
        del words[at]
    elif kind == "swap" and len(words) > 1:
        other = int(rng.integers(len(words)))
        words[at], words[other] = words[other], words[at]
    elif kind == "replace" and words and donated:
        words[at] = replace(donated[int(rng.integers(len(donated)))], before=words[at].before)
    elif words:
        words.insert(at, words[at])
