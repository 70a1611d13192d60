"""Units of texts with and without spaces, and altered texts made of them."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distilmatch.data.perturb import perturb
from distilmatch.data.text_units import join_units, rejoin_units, split_units

MIXED = st.text(
    st.sampled_from(
        "abc éß9.,!()　 \t\n我爱北京手机壳のはッきゃーコンピ。、「」《》สวัสดีเพื่อนๆ๙ສະບາຍខ្មែរមြန်မာကို한국\u200d\u3005"
    ),
    max_size=30,
)
SPACED = st.text(
    st.one_of(st.characters(max_codepoint=0x0DFF, exclude_categories=["Cs"]), st.sampled_from(" \t\u3000한국")),
    max_size=40,
)


def _texts(text: str) -> list[str]:
    return [unit.text for unit in split_units(text)[0]]


@given(st.one_of(MIXED, st.text(max_size=40)))
def test_joining_restores_the_text(text: str) -> None:
    units, end = split_units(text)
    assert join_units(units, end) == text
    assert all(unit.text and unit.text.split() == [unit.text] for unit in units)
    assert all(unit.before == "" or unit.before.isspace() for unit in units)


@given(SPACED)
def test_words_are_what_spaces_part(text: str) -> None:
    units, _ = split_units(text)
    assert [unit.text for unit in units] == text.split()
    assert all(unit.word for unit in units)
    assert rejoin_units(units) == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("我爱北京", ["我", "爱", "北", "京"]),
        ("买iPhone 15手机壳,红色。", ["买", "iPhone", "15", "手", "机", "壳,", "红", "色。"]),
        ("「東京」は晴れ", ["「東", "京」", "は", "晴", "れ"]),
        ("コンピューターきゃっと", ["コンピューター", "きゃっ", "と"]),
        ("ｶﾞﾗｽ 2枚", ["ｶﾞﾗｽ", "2", "枚"]),
        ("เพื่อน", ["เพื่อ", "น"]),
        ("สวัสดี ครับ", ["สวั", "สดี", "ครั", "บ"]),
        ("ราคา๑๒๓บาท", ["ราคา", "๑๒๓", "บาท"]),
        ("ខ្មែរ", ["ខ្មែរ"]),
        ("မြန်မာ", ["မြန်", "မာ"]),
        ("휴대폰 케이스", ["휴대폰", "케이스"]),
        ("red 手 car", ["red", "手", "car"]),
        ("「", ["「"]),
        ("", []),
    ],
)
def test_units_of_scripts(text: str, units: list[str]) -> None:
    assert _texts(text) == units


@given(MIXED)
def test_no_cut_parts_a_mark_from_its_letter(text: str) -> None:
    units, _ = split_units(text)
    for unit, after in zip(units, units[1:], strict=False):
        if after.before == "":
            assert unicodedata.category(after.text[0]) not in ("Mn", "Mc", "Me")
            letter = unicodedata.name(after.text[0], "?").split()[0]
            waits = not unit.word and unit.text[-1] in "เแโใไ"
            assert not waits or letter not in ("THAI", "LAO", "KHMER", "MYANMAR")


def _perturbed_words(text: str, rng: np.random.Generator, donor: str = "") -> str:
    """How texts of words were altered before there were units."""
    words, donated = text.split(), donor.split()
    if len(words) > 2 and len(donated) > 2 and rng.random() < 0.5:
        share = rng.uniform(0.25, 0.75)
        return " ".join(words[: max(1, round(share * len(words)))] + donated[round(share * len(donated)) :])
    for _ in range(int(rng.integers(1, 3))):
        kind = rng.choice(["drop", "swap", "repeat", "replace"])
        at = int(rng.integers(len(words))) if words else 0
        if kind == "drop" and len(words) > 1:
            del words[at]
        elif kind == "swap" and len(words) > 1:
            other = int(rng.integers(len(words)))
            words[at], words[other] = words[other], words[at]
        elif kind == "replace" and words and donated:
            words[at] = donated[int(rng.integers(len(donated)))]
        elif words:
            words.insert(at, words[at])
    return " ".join(words)


@given(SPACED, SPACED, st.integers(0, 1000))
def test_texts_with_spaces_are_altered_as_ever(text: str, donor: str, seed: int) -> None:
    assume(not re.search(r"\d|; | \| |\n", text))  # of numbers and fields other things change
    expected = _perturbed_words(text, np.random.default_rng(seed), donor)
    assert perturb(text, np.random.default_rng(seed), donor) == expected


@pytest.mark.parametrize(
    ("text", "donor"),
    [
        ("红色手机壳适合大屏", "蓝色皮包送礼佳品"),
        ("赤いカバーと大きい箱", "青い鞄は軽くて安い"),
        ("เคสโทรศัพท์สีแดง", "กระเป๋าหนังสีน้ำเงิน"),
    ],
)
def test_texts_without_spaces_are_altered_too(text: str, donor: str) -> None:
    altered = {perturb(text, np.random.default_rng(seed), donor) for seed in range(50)}
    assert len(altered) > 25
    assert not any(" " in copy for copy in altered)
    assert all(set(_texts(copy)) & set(_texts(text)) for copy in altered), "something of the text stays"
    longest = max(map(len, altered))
    assert longest <= len(text) + len(donor)
