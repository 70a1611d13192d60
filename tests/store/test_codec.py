"""What is written of a token is what a plain loop makes of it, and no number is further off than its dtype says."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distilmatch.arguments import NUMBER_FORMATS
from distilmatch.errors import CacheError, ConfigError
from distilmatch.store.codec import (
    STORED_DTYPES,
    StoredDtype,
    StoredTokens,
    array_layout,
    bytes_per_item,
    decode_tokens,
    encode_tokens,
    stored_dtype,
)
from distilmatch.types import TokenRepresentations

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-149
SMALLEST_NORMAL = 2.0**-126
FLOATING: tuple[StoredDtype, ...] = ("float32", "float16", "bfloat16")

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Numbers of one magnitude, which fill the integers' range, with zeros and an outlier here and there.
alike = st.builds(
    lambda shares, exponent, outlier: [
        float(np.float32(share * 2.0**exponent * (1.0 if place else outlier))) for place, share in enumerate(shares)
    ],
    st.lists(st.just(0.0) | st.floats(-1, 1), min_size=1, max_size=9),
    st.integers(-149, 100),
    st.sampled_from([1.0, 1.0, 300.0, 2.0**26]),
)
tokens = st.lists(numbers, min_size=1, max_size=9) | alike


def of_lists(*texts: list[list[float]]) -> TokenRepresentations:
    """n texts of k tokens of d numbers each; the mask has a pattern, so that a swapped one is seen."""
    array = torch.tensor(texts, dtype=torch.float64)
    mask = (torch.arange(array.shape[0] * array.shape[1]) % 3 != 2).view(array.shape[:2])
    return TokenRepresentations(array.to(torch.float32), mask)


def plain_int8(token: list[float]) -> tuple[list[int], float]:
    """The integers and the scale of one token, number by number."""
    largest = max(abs(number) for number in token)
    if largest == 0:
        return [0] * len(token), 0.0
    scale = max(float(np.float32(largest) / np.float32(127)), SMALLEST_NORMAL)
    mantissa, exponent = math.frexp(scale)
    scale = math.ldexp(math.floor(mantissa * 2**16), exponent - 16)
    return [round(number / scale) for number in token], scale


@settings(max_examples=400, deadline=None)
@given(token=tokens)
@example(token=[LARGEST, -LARGEST, 1.0])
@example(token=[SMALLEST, 0.0, -SMALLEST])
@example(token=[190 * SMALLEST, 63 * SMALLEST])
@example(token=[127.0, 0.5, 1.5, -0.5, -2.5, 63.5])  # ties
@example(token=[127.0, float(np.nextafter(np.float32(0.5), np.float32(1)))])  # beside one
@example(token=[-0.0, 0.0])
def test_int8_is_what_a_loop_makes_and_within_half_a_scale(token: list[float]) -> None:
    stored = encode_tokens(of_lists([token]), "int8")
    integers, scale = plain_int8(token)
    assert stored.scales is not None and stored.scales.dtype == torch.float32
    assert stored.tokens.flatten().tolist() == integers
    assert stored.scales.item() == scale
    assert all(-127 <= integer <= 127 for integer in integers)
    decoded = decode_tokens(stored).tokens.flatten().tolist()
    for number, integer, read in zip(token, integers, decoded, strict=True):
        assert read == integer * scale  # in fp64: the product in fp32 is exact
        assert abs(Fraction(number) - Fraction(read)) <= Fraction(scale) / 2
        assert number != 0 or read == 0


@settings(max_examples=60, deadline=None)
@given(
    texts=st.integers(0, 5),
    kept=st.integers(1, 5),
    width=st.integers(1, 40),
    dtype=st.sampled_from(STORED_DTYPES),
    exponents=st.lists(st.integers(-40, 40), min_size=25, max_size=25),
    seed=st.integers(0, 2**16),
)
def test_every_token_is_stored_on_its_own(
    texts: int, kept: int, width: int, dtype: StoredDtype, exponents: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    magnitudes = torch.tensor([2.0**exponent for exponent in exponents]).view(5, 5)[:texts, :kept, None]
    if dtype == "float16":
        magnitudes = magnitudes.clamp_max(2.0**13)
    mask = torch.rand(texts, kept, generator=generator) < 0.7
    everything = torch.randn(texts, kept, width, generator=generator) * magnitudes * mask[..., None]
    stored = encode_tokens(TokenRepresentations(everything, mask), dtype)
    read = decode_tokens(stored)
    assert read.tokens.dtype == torch.float32 and torch.equal(read.mask, mask)
    assert not read.tokens[~mask].any(), "masked tokens are zero and stay so"
    if dtype == "int8":
        assert stored.scales is not None
        for text in range(texts):
            for place in range(kept):
                integers, scale = plain_int8(everything[text, place].tolist())
                assert stored.tokens[text, place].tolist() == integers
                assert stored.scales[text, place].item() == scale
    else:
        assert torch.equal(read.tokens, everything.to(getattr(torch, dtype)).float())
    again = encode_tokens(read, dtype)
    assert all(torch.equal(array, again.arrays()[name]) for name, array in stored.arrays().items())


@settings(deadline=None)
@given(parts=st.lists(st.integers(0, 4), min_size=1, max_size=4), dtype=st.sampled_from(STORED_DTYPES))
def test_layout_and_size_are_those_of_the_arrays(parts: list[int], dtype: StoredDtype) -> None:
    every = [TokenRepresentations(torch.randn(n, 3, 7), torch.rand(n, 3) < 0.5) for n in parts]
    stored = [encode_tokens(part, dtype) for part in every]
    joined = StoredTokens.joined(stored)
    total = sum(parts)
    arrays = joined.arrays()
    assert {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()} == array_layout(
        dtype, total, 3, 7
    )
    assert sum(array.nbytes for array in arrays.values()) == total * bytes_per_item(3, 7, dtype)
    whole = encode_tokens(
        TokenRepresentations(torch.cat([part.tokens for part in every]), torch.cat([part.mask for part in every])),
        dtype,
    )
    order = torch.randperm(total)
    for name, array in whole.arrays().items():
        assert torch.equal(arrays[name], array)
        assert torch.equal(joined.take(order).arrays()[name], array[order])
        assert torch.equal(joined[1:3].arrays()[name], array[1:3])


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", 8 * 1025), ("float16", 8 * 513), ("bfloat16", 8 * 513), ("int8", 8 * 261)]
)
def test_bytes_per_item(dtype: StoredDtype, expected: int) -> None:
    assert bytes_per_item(8, 256, dtype) == expected


@pytest.mark.parametrize("dtype", STORED_DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(dtype: StoredDtype, bad: float) -> None:
    texts = of_lists([[1.0, 2.0]], [[3.0, bad]])
    with pytest.raises(CacheError, match="representation of text 1 holds NaN or infinity"):
        encode_tokens(texts, dtype, lambda row: f"text {row}")


@pytest.mark.parametrize("dtype", STORED_DTYPES)
@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_numbers_are_taken(dtype: StoredDtype, source: torch.dtype) -> None:
    texts = TokenRepresentations(torch.randn(3, 2, 8).to(source), torch.ones(3, 2, dtype=torch.bool))
    expected = encode_tokens(TokenRepresentations(texts.tokens.float(), texts.mask), dtype)
    got = encode_tokens(texts, dtype)
    if dtype in ("float32", "int8") or source != torch.float64:  # fp64 to half precision by way of fp32 rounds twice
        assert all(torch.equal(array, got.arrays()[name]) for name, array in expected.arrays().items())


def test_values_at_the_edge_fit() -> None:
    edge = of_lists([[65504.0]])
    assert encode_tokens(edge, "float16").tokens.item() == 65504.0
    assert encode_tokens(edge.to(torch.float64), "int8").tokens.item() == 127
    beyond = TokenRepresentations(edge.tokens * 1e30, edge.mask)
    assert encode_tokens(beyond, "bfloat16").tokens.isfinite().all()
    assert decode_tokens(encode_tokens(of_lists([[LARGEST]]), "int8")).tokens.isfinite().all()
    wide = TokenRepresentations(torch.full((1, 1, 1), 1e39, dtype=torch.float64), edge.mask)
    for dtype in STORED_DTYPES:
        with pytest.raises(CacheError, match=f"row 0 does not fit {dtype}"):
            encode_tokens(wide, dtype)


def test_what_a_model_encodes_in_inference_mode_is_taken() -> None:
    with torch.inference_mode():
        texts = TokenRepresentations(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    for dtype in STORED_DTYPES:
        assert len(decode_tokens(encode_tokens(texts, dtype))) == 2


@pytest.mark.parametrize(
    ("short", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16"), ("int8", "int8")]
)
def test_a_format_has_one_name_in_settings_and_pytorchs_is_taken_too(short: str, dtype: str) -> None:
    assert stored_dtype("dtype", short) == stored_dtype("dtype", dtype) == dtype


@pytest.mark.parametrize("name", ["half", "", "fp8", "FLOAT16"])
def test_another_format_is_refused_by_the_name_of_its_setting(name: str) -> None:
    with pytest.raises(ConfigError, match="`--dtype` must be one of fp32, fp16, bf16, int8"):
        stored_dtype("--dtype", name)


def test_settings_name_every_format_that_is_stored() -> None:
    assert [stored_dtype("dtype", name) for name in NUMBER_FORMATS] == list(STORED_DTYPES)
