"""Templates of texts beside a slow oracle, which rewrites the written template by regular expressions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.errors import ConfigError
from distilmatch.text_templates import Template

EMPTY = "\uf8ff"
SEPARATOR = re.compile(r"(\s*[,;|，；、｜\r\n]+\s*|\s+[-–—/·•]\s+)")
FIELD = re.compile("[\ue000-\uf8ff]")
FILLED = re.compile("[\ue000-\uf8fe]")


def slow_fill(written: str, values: dict[str, str]) -> str:
    """Every field becomes one private character; brackets are rewritten from the inside out."""
    kept: list[str] = []

    def mark(text: str) -> str:
        kept.append(text)
        return chr(0xE000 + len(kept) - 1)

    text = re.sub(
        r"\{(\w+)\}", lambda m: mark(values[m[1]].strip()) if values.get(m[1], "").strip() else EMPTY, written
    )
    while True:
        inner = re.search(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]", text)
        if inner is None:
            break
        inside = inner[1] if inner[1] is not None else inner[2]
        if FIELD.search(inside):
            left = slow_sequence(inside)
            replacement = EMPTY if left is None else mark(inner[0][0] + left + inner[0][-1])
        else:
            replacement = inner[0].translate(str.maketrans("()[]", "\x01\x02\x03\x04"))
        text = text[: inner.start()] + replacement + text[inner.end() :]
    filled = slow_sequence(text) or ""
    while (found := FILLED.search(filled)) is not None:
        filled = filled[: found.start()] + kept[ord(found[0]) - 0xE000] + filled[found.end() :]
    return filled.translate(str.maketrans("\x01\x02\x03\x04", "()[]"))


def slow_sequence(text: str) -> str | None:
    if FIELD.search(text) and not FILLED.search(text):
        return None
    pieces = SEPARATOR.split(text)
    left = ""
    begun = False
    for place in range(0, len(pieces), 2):
        segment = pieces[place]
        if FIELD.search(segment) and not FILLED.search(segment):
            continue
        while re.match(rf"\s*{EMPTY}", segment):
            segment = re.sub(rf"^\s*{EMPTY}\s*", "", segment)
        segment = re.sub(rf"\s*{EMPTY}", "", segment)
        left += (pieces[place - 1] if begun else "") + segment
        begun = True
    return left


LITERALS = st.sampled_from(
    [" ", "", "brand: ", " ; ", ", ", " | ", "\n", " - ", "-", " cm", "x", "、", " / ", ";", "no. "]
)
FIELDS = st.sampled_from(["{a}", "{b}", "{c}", "{d}"])
WRITTEN = st.recursive(
    st.one_of(LITERALS, FIELDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"[{text}]"),
    ),
    max_leaves=12,
)
VALUES = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(["", " ", "red", "two words", " x ", "(;)", "{a}"]) for name in "abcd"}
)


@given(WRITTEN, VALUES)
def test_the_text_is_that_of_the_slow_oracle(written: str, values: dict[str, str]) -> None:
    if "{" not in written:
        with pytest.raises(ConfigError, match="names no column"):
            Template.of(written)
        return
    assert Template.of(written).fill(values) == slow_fill(written, values)


@given(st.lists(st.one_of(LITERALS, FIELDS), min_size=1, max_size=8).map("".join), st.data())
def test_filled_fields_stand_as_in_the_template(written: str, data: st.DataObject) -> None:
    if "{" in written:
        values = {name: data.draw(st.text(min_size=1).filter(lambda text: text.strip())) for name in "abcd"}
        assert Template.of(written).fill(values) == written.format(
            **{name: value.strip() for name, value in values.items()}
        )


@pytest.mark.parametrize(
    ("written", "values", "text"),
    [
        ("{title} ; {brand} ; {price}", {"title": "Lamp", "price": "9"}, "Lamp ; 9"),
        ("{title} ; brand: {brand}", {"title": "Lamp"}, "Lamp"),
        ("{title} ; brand: {brand}", {"brand": "Acme"}, "brand: Acme"),
        ("{name}, {maker} ({year})", {"name": "Lamp", "maker": "Acme"}, "Lamp, Acme"),
        ("{name} ({maker}, {year})", {"name": "Lamp", "year": "1999"}, "Lamp (1999)"),
        ("{name} ({maker}, {year})", {"year": "1999"}, "(1999)"),
        ("{first} {middle} {last}", {"first": "A", "last": "B"}, "A B"),
        ("{first} {last}", {"last": "B"}, "B"),
        ("{w} cm, {h} cm", {"h": "4"}, "4 cm"),
        ("{title} - {brand}", {"brand": "Acme"}, "Acme"),
        ("{title}\n{text}", {"text": "long"}, "long"),
        ("new, {title}", {"title": "Lamp"}, "new, Lamp"),
        ("new, {title}", {}, ""),
        ("{{{title}}}, {brand}", {"title": "Lamp"}, "{Lamp}"),
        ("{名}、{色}（{年}）", {"名": "灯", "年": "九"}, "灯、（九）"),
        ("(a {title}", {"title": "Lamp"}, "(a Lamp"),
        ("a) {title} (b", {"title": "Lamp"}, "a) Lamp (b"),
        ("([){title}]", {"title": "Lamp"}, "([)Lamp]"),
        ("{two words}", {"two words": "x"}, "x"),
    ],
)
def test_what_an_empty_field_takes_with_it(written: str, values: dict[str, str], text: str) -> None:
    assert Template.of(written).fill(values) == text


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("plain", "names no column"),
        ("{{title}}", "names no column"),
        ("{title", "character 1 is not closed"),
        ("title} {x}", "character 6 is not opened"),
        ("{x} {}", "character 5 name no column"),
        ("{x} { }", "name no column"),
        ("{a{b}}", "not closed"),
    ],
)
def test_what_is_no_template_is_refused(written: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Template.of(written)


def test_renamed_fields_keep_the_form() -> None:
    template = Template.of("{{x}} {title} ; brand: {brand}")
    renamed = template.renamed({"title": "left_title"})
    assert renamed.written == "{{x}} {left_title} ; brand: {brand}"
    assert renamed.fields == ("left_title", "brand")
    assert renamed.skeleton == template.skeleton != Template.of("{title} ; {brand}").skeleton
