"""Altered copies of texts: small changes that an accurate teacher notices and a careless student does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distilmatch.data.text_units import rejoin_units, split_units


def perturb(text: str, rng: np.random.Generator, donor: str = "") -> str:
    """A copy of `text`, altered: every other time its beginning with the end of `donor`, else one or two word-level
    changes: a word dropped, two swapped, one repeated, or one taken from `donor`. A text of one word gets a word of the
    donor, or is repeated. In scripts without spaces a character or a short run of them counts as a word (`text_units`).

    A donor of the same kind of text makes natural sentences that no table holds.
    """
    words, _ = split_units(text)
    donated, _ = split_units(donor)
    if len(words) > 2 and len(donated) > 2 and rng.random() < 0.5:
        share = rng.uniform(0.25, 0.75)
        return rejoin_units(words[: max(1, round(share * len(words)))] + donated[round(share * len(donated)) :])
    for _ in range(int(rng.integers(1, 3))):
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
    return rejoin_units(words)
