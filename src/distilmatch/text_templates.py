"""Templates that make one text of several fields, such as `"{title} ; brand: {brand} ({year})"`.

What stands in braces is the name of a field; `{{` and `}}` are braces. The rule for fields that are empty:

1. Separators cut a template into segments: a comma, semicolon, bar or line end (`,` `;` `|` and the full-width ones) with the
   white space around it, or one of `-` `–` `—` `/` `·` `•` between white space. A pair of brackets that holds a field is
   cut inside, never across.
2. A segment, or what brackets hold, is left out where it has fields and none of them is filled: a segment with its
   separator, brackets with the white space before them. What has no field always stays.
3. In a segment of which something is filled an empty field leaves nothing, and the white space before it goes too (at the
   segment's beginning that after it).

What is left is joined by the separators that stood before each part; the first has none. Without one filled field there is
no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from distilmatch.errors import ConfigError

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+", re.DOTALL)
_SEPARATOR = re.compile(r"\s*[,;|，；、｜\r\n]+\s*|\s+[-–—/·•]\s+")
_BRACKETS = {"(": ")", "[": "]", "（": "）", "［": "］", "【": "】", "「": "」", "《": "》", "<": ">"}


@dataclass(frozen=True)
class _Field:
    """A field's place."""

    name: str


@dataclass(frozen=True)
class _Group:
    """Brackets that hold a field."""

    opening: str
    inside: _Segments
    closing: str


_Part = str | _Field | _Group


@dataclass(frozen=True)
class _Segments:
    """Parts of each segment, and the separator before each (none before the first)."""

    segments: tuple[tuple[_Part, ...], ...]
    separators: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A template that has been looked at.

    Attributes:
        written: as people write it.
        fields: the names, each once, in their order.
    """

    written: str
    fields: tuple[str, ...]
    _tokens: tuple[str | _Field, ...]
    _root: _Segments

    @classmethod
    def of(cls, written: str) -> Template:
        """The template that is written so.

        Raises:
            ConfigError: no field, a brace that is not closed or not opened, or a field without a name.
        """
        tokens = tuple(_tokens(written))
        fields = tuple(dict.fromkeys(token.name for token in tokens if isinstance(token, _Field)))
        if not fields:
            raise ConfigError(
                f"the template {written!r} names no column: write a column's name in braces, as in '{{title}} ; {{brand}}'"
            )
        return cls(written, fields, tokens, _segments(tokens))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text; empty where no field is filled.

        Args:
            values: what stands in the fields, white space around it not counted; what is empty then, or not there, is an
                empty field.
        """
        filled = {name: text for name, value in values.items() if (text := value.strip())}
        if all(name in filled for name in self.fields):  # most rows: nothing is left out
            return "".join([token if isinstance(token, str) else filled[token.name] for token in self._tokens])
        return _filled(self._root, filled) or ""

    def renamed(self, fields: Mapping[str, str]) -> Template:
        """The same template of other fields; those that `fields` does not have stay."""
        tokens = (
            f"{{{fields.get(token.name, token.name)}}}"
            if isinstance(token, _Field)
            else token.replace("{", "{{").replace("}", "}}")
            for token in self._tokens
        )
        return Template.of("".join(tokens))

    @property
    def skeleton(self) -> str:
        """What is left without the names: templates of one skeleton make texts of the same form."""
        return "".join("{}" if isinstance(token, _Field) else token for token in self._tokens)


# --- what is written -----------------------------------------------------------------------------------------------


def _tokens(written: str) -> Iterator[str | _Field]:
    """Literal texts and fields, in their order."""
    for match in _TOKEN.finditer(written):
        token = match.group()
        if token in ("{{", "}}"):
            yield token[0]
        elif token in ("{", "}"):
            raise ConfigError(
                f"the template {written!r}: the brace at character {match.start() + 1} is not "
                f"{'closed' if token == '{' else 'opened'}; a brace itself is written twice ({token * 2})"
            )
        elif match.group(1) is None:
            yield token
        elif not match.group(1).strip():
            raise ConfigError(f"the template {written!r}: the braces at character {match.start() + 1} name no column")
        else:
            yield _Field(match.group(1))


def _segments(tokens: Sequence[str | _Field]) -> _Segments:
    """Tokens as segments, brackets that hold a field as groups."""
    pieces: list[str | _Field] = []  # literal texts by the character, so that brackets can be matched by their places
    for token in tokens:
        pieces += [token] if isinstance(token, _Field) else list(token)
    return _cut(_grouped(pieces, _closing_places(pieces)))


def _closing_places(pieces: Sequence[str | _Field]) -> dict[int, int]:
    """Where the brackets that hold a field open and close."""
    pairs: dict[int, int] = {}
    open_places: list[int] = []
    for place, piece in enumerate(pieces):
        if piece in _BRACKETS:
            open_places.append(place)
        elif piece in _BRACKETS.values():
            opened = next((at for at in reversed(open_places) if _BRACKETS[str(pieces[at])] == piece), None)
            if opened is None:
                continue
            del open_places[open_places.index(opened) :]  # those inside are closed nowhere
            if any(isinstance(inside, _Field) for inside in pieces[opened:place]):
                pairs[opened] = place
    return pairs


def _grouped(pieces: Sequence[str | _Field], pairs: Mapping[int, int], first: int = 0) -> list[_Part]:
    """Pieces, `first` the place of the first, with their brackets as groups and literal texts whole again."""
    parts: list[_Part] = []
    place = first
    while place < first + len(pieces):
        piece = pieces[place - first]
        closing = pairs.get(place)
        if closing is not None:
            inside = _grouped(pieces[place + 1 - first : closing - first], pairs, place + 1)
            parts.append(_Group(str(piece), _cut(inside), str(pieces[closing - first])))
            place = closing
        elif isinstance(piece, str) and parts and isinstance(parts[-1], str):
            parts[-1] += piece
        else:
            parts.append(piece)
        place += 1
    return parts


def _cut(parts: Sequence[_Part]) -> _Segments:
    """Parts cut at the separators of their literal texts."""
    segments: list[list[_Part]] = [[]]
    separators = [""]
    for part in parts:
        if not isinstance(part, str):
            segments[-1].append(part)
            continue
        end = 0
        for match in _SEPARATOR.finditer(part):
            segments[-1].append(part[end : match.start()])
            segments.append([])
            separators.append(match.group())
            end = match.end()
        segments[-1].append(part[end:])
    return _Segments(tuple(map(tuple, segments)), tuple(separators))


# --- what it is filled with ----------------------------------------------------------------------------------------


def _filled(root: _Segments, values: Mapping[str, str]) -> str | None:
    """Segments with their fields filled; None where there are fields and none is filled."""
    text = ""
    any_left = any_filled = False
    has_fields = False
    for separator, segment in zip(root.separators, root.segments, strict=True):
        fields = any(not isinstance(part, str) for part in segment)
        has_fields = has_fields or fields
        written = _segment(segment, values)
        if written is None:
            continue
        any_filled = any_filled or fields
        text += written if not any_left else separator + written
        any_left = True
    return text if any_filled or not has_fields else None


def _segment(parts: Sequence[_Part], values: Mapping[str, str]) -> str | None:
    """One segment; None where it has fields and none is filled."""
    text = ""
    trims = False  # the white space after a field that was empty at the segment's beginning
    filled: list[bool] = []
    for part in parts:
        if isinstance(part, str):
            text += part.lstrip() if trims else part
            trims = trims and not text
            continue
        value = _value(part, values)
        filled.append(value is not None)
        if value is None:
            text = text.rstrip()
            trims = trims or not text
        else:
            text, trims = text + value, False
    return text if any(filled) or not filled else None


def _value(part: _Field | _Group, values: Mapping[str, str]) -> str | None:
    if isinstance(part, _Field):
        return values.get(part.name) or None
    inside = _filled(part.inside, values)
    return None if inside is None else part.opening + inside + part.closing
