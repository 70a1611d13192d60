"""How a side's texts become tokens, and which sides share that: the one place where text meets tokenizer.

Shape legend: n texts; s sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distilmatch.config.pairs import StudentConfig
from distilmatch.data.tokenising import TokenIds, token_ids


@dataclass(frozen=True)
class Stream:
    """What sides that read a text alike have in common: a text that stands on two of them goes through the encoder once.

    Attributes:
        encoder: the number of the encoder, and of its tokenizer.
        max_length: tokens of a text, special tokens and prompt included.
        prompt: what is put before each text.
    """

    encoder: int
    max_length: int
    prompt: str = ""

    @classmethod
    def of_side(cls, student: StudentConfig, side: int) -> Stream:
        """That of a side of a student."""
        encoder = 0 if student.shared_encoder else side
        return cls(encoder=encoder, max_length=student.max_lengths[side], prompt=student.prompt(side))

    def token_ids(self, tokenizer: Any, texts: Sequence[str]) -> TokenIds:
        """The token ids of n texts."""
        read = [self.prompt + text for text in texts] if self.prompt else texts
        return token_ids(tokenizer, read, self.max_length)

    def reading(self) -> tuple[Any, ...]:
        """What a text's tokens depend on beside the tokenizer: part of the fingerprint of all that is computed from them."""
        # Without a prompt the same as before there were any.
        return (self.max_length, self.prompt) if self.prompt else (self.max_length,)


def streams_of(student: StudentConfig) -> tuple[tuple[Stream, ...], tuple[int, ...]]:
    """The distinct streams of a student, and for each of its s sides the number of its stream."""
    sides = [Stream.of_side(student, side) for side in range(student.sides)]
    distinct = tuple(dict.fromkeys(sides))
    return distinct, tuple(map(distinct.index, sides))
