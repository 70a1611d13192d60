"""The GPU's programs, in Triton: one program scores a tile of pairs, and nothing of a pair but its logits is written.

Products take bf16 operands and add up in fp32; all else is fp32. Sizes are made up for Triton's blocks, powers of two,
when texts and weights are packed (`triton_heads`), with zeros that change no sum. A width is one block or two, the first
the larger: 256, or 256 + 128, so that 384 costs 384 columns and not 512.

A tile's pairs are named by row numbers, or are all of LEFTS texts against all of PAIRS / LEFTS; either way each pair
gathers its operands by itself, and what neighbours share comes from the cache of the multiprocessor.

Shape legend: n, m texts of the two sides; p pairs; k kept tokens of a side; h attention heads of width e; a = h e; d width;
f hidden width; c labels.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

_IMITATED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def gelu(x: tl.tensor) -> tl.tensor:
    """The native kernels' x Phi(x): Phi - 1/2 as an odd polynomial on [-4, 4]; error below 1.9e-4 for |x| < 6."""
    c = tl.minimum(tl.maximum(x, -4.0), 4.0)
    t = c * c
    p = 2.277568000863539e-08 * t - 1.5982860759322648e-06
    p = p * t + 4.794873530045152e-05
    p = p * t - 0.0008139439742080867
    p = p * t + 0.008772007189691067
    p = p * t - 0.06457217782735825
    p = p * t + 0.3978825807571411
    return x * (p * c + 0.5)


@triton.jit
def _activated(x: tl.tensor, USE_GELU: tl.constexpr) -> tl.tensor:
    if USE_GELU:
        return gelu(x)
    else:
        return tl.maximum(x, 0.0)


@triton.jit
def _product(a: tl.tensor, b: tl.tensor, sums: tl.tensor) -> tl.tensor:
    # sums + a b, `a` in the type of the weights `b`; the interpreter would multiply the bits of bf16 numbers.
    a = a.to(b.dtype)
    if _IMITATED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums)
    else:
        return tl.dot(a, b, sums)


@triton.jit
def _moments(
    x: tl.tensor,
    y: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    width: tl.tensor,
    epsilon: tl.tensor,
    SECOND: tl.constexpr,
) -> tl.tensor:
    # Mean, and one over the standard deviation, of rows of two blocks; columns from `width` on are padding, zero.
    total = tl.sum(x, 1)
    if SECOND > 0:
        total += tl.sum(y, 1)
    mean = total / width
    centred = tl.where(first[None, :] < width, x - mean[:, None], 0.0)
    squares = tl.sum(centred * centred, 1)
    if SECOND > 0:
        others = tl.where(second[None, :] < width, y - mean[:, None], 0.0)
        squares += tl.sum(others * others, 1)
    return mean, tl.rsqrt(squares / width + epsilon)


@triton.jit
def _attended(
    a: tl.tensor,
    b: tl.tensor,
    counts: tl.tensor,
    head: tl.tensor,
    query: tl.tensor,
    own_top: tl.tensor,
    own_sum: tl.tensor,
    own_mixed: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    kept: tl.tensor,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
) -> tl.tensor:
    # (p, GROUP, HEAD): what the first left token mixes of both texts, token by token under the online softmax.
    heads = head + tl.arange(0, GROUP)
    inner = (heads[:, None] * HEAD + tl.arange(0, HEAD)[None, :])[None, :, :]
    left_at = a[:, None, None] * (HEADS * HEAD) + inner
    asked = tl.load(query + left_at).to(tl.float32)
    mixed = tl.load(own_mixed + left_at)
    top = tl.load(own_top + a[:, None] * HEADS + heads[None, :])
    total = tl.load(own_sum + a[:, None] * HEADS + heads[None, :])
    for token in range(0, tl.max(counts, 0)):
        # Where a thread's pairs share their right text, the compiler sees it here and loads and converts once.
        right_at = ((b * kept + token) * (HEADS * HEAD))[:, None, None] + inner
        score = tl.sum(asked * tl.load(key + right_at).to(tl.float32), 2)
        score = tl.where((token < counts)[:, None], score, float("-inf"))
        highest = tl.maximum(top, score)
        faded, share = tl.exp2(top - highest), tl.exp2(score - highest)
        total = total * faded + share
        mixed = mixed * faded[:, :, None] + share[:, :, None] * tl.load(value + right_at).to(tl.float32)
        top = highest
    return mixed / total[:, :, None]


@triton.jit(do_not_specialize=["pairs", "lefts", "rights"])
def transformer_program(
    rows: tl.tensor,  # (p, 2) int64, not read where every pair is scored
    out: tl.tensor,  # (p, c) fp32; holds the part of the largest similarities where there is one
    pairs: tl.tensor,
    lefts: tl.tensor,
    rights: tl.tensor,
    query: tl.tensor,  # (n, a) bf16, scaled for powers of two
    own_top: tl.tensor,  # (n, h) fp32, and so `own_sum`
    own_sum: tl.tensor,
    own_mixed: tl.tensor,  # (n, a) fp32
    residual: tl.tensor,  # (n, d) fp32
    left_similar: tl.tensor,  # (n, c, SIMILAR) bf16, times the classifier's weights
    key: tl.tensor,  # (m, k, a) bf16, and so `value`; real tokens first
    value: tl.tensor,
    counts: tl.tensor,  # (m,) int32 real tokens
    right_similar: tl.tensor,  # (m, SIMILAR) bf16
    output: tl.tensor,  # (a, d) bf16
    inner_scale: tl.tensor,  # (d,) fp32, and so the others of width d
    inner_bias: tl.tensor,
    expand: tl.tensor,  # (d, f) bf16
    expand_bias: tl.tensor,  # (f,) fp32
    contract: tl.tensor,  # (f, d) bf16
    contract_bias: tl.tensor,
    read: tl.tensor,  # (c, d) fp32, with the outer norm's weights folded in
    read_sum: tl.tensor,  # (c,) fp32
    read_bias: tl.tensor,
    kept: tl.tensor,
    width: tl.tensor,
    inner_epsilon: tl.tensor,
    outer_epsilon: tl.tensor,
    EVERY_PAIR: tl.constexpr,
    LEFTS: tl.constexpr,
    PAIRS: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    LABELS: tl.constexpr,
    USE_GELU: tl.constexpr,
    PRE_NORM: tl.constexpr,
    SIMILAR: tl.constexpr,
    LARGEST: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """The one-layer folded transformer head of two sides; `docs/explanation/folding.md` has the formulas."""
    WIDTH: tl.constexpr = FIRST + SECOND
    tile = tl.program_id(0).to(tl.int64)
    inside = tl.arange(0, PAIRS)
    if EVERY_PAIR:
        RIGHTS: tl.constexpr = PAIRS // LEFTS
        across = tl.cdiv(rights, RIGHTS)
        a = (tile // across) * LEFTS + inside // RIGHTS
        b = (tile % across) * RIGHTS + inside % RIGHTS
        place = a * rights + b
        real = (a < lefts) & (b < rights)
        a = tl.minimum(a, lefts - 1)
        b = tl.minimum(b, rights - 1)
    else:
        place = tile * PAIRS + inside
        real = place < pairs
        place = tl.minimum(place, pairs - 1)
        a = tl.load(rows + 2 * place)
        b = tl.load(rows + 2 * place + 1)

    # The residual, and to it the output projection of what was attended to, some heads at a time.
    first = tl.arange(0, FIRST)
    second = FIRST + tl.arange(0, SECOND if SECOND > 0 else 1)
    x = tl.load(residual + a[:, None] * WIDTH + first[None, :])
    y = x
    if SECOND > 0:
        y = tl.load(residual + a[:, None] * WIDTH + second[None, :])
    tokens = tl.load(counts + b)
    for head in range(0, HEADS, GROUP):
        mixed = _attended(a, b, tokens, head, query, own_top, own_sum, own_mixed, key, value, kept, HEADS, GROUP, HEAD)
        attended = tl.reshape(mixed, (PAIRS, GROUP * HEAD))
        at = (head * HEAD + tl.arange(0, GROUP * HEAD))[:, None] * WIDTH
        x = _product(attended, tl.load(output + at + first[None, :]), x)
        if SECOND > 0:
            y = _product(attended, tl.load(output + at + second[None, :]), y)

    # The inner norm; what it gives is the feed-forward layer's input, and post-norm the new residual too.
    mean, scale = _moments(x, y, first, second, width, inner_epsilon, SECOND)
    normed = (x - mean[:, None]) * scale[:, None] * tl.load(inner_scale + first) + tl.load(inner_bias + first)
    x = (x if PRE_NORM else normed) + tl.load(contract_bias + first)[None, :]
    hidden_input = normed.to(expand.dtype.element_ty)
    hidden_input_second = hidden_input
    if SECOND > 0:
        normed = (y - mean[:, None]) * scale[:, None] * tl.load(inner_scale + second) + tl.load(inner_bias + second)
        y = (y if PRE_NORM else normed) + tl.load(contract_bias + second)[None, :]
        hidden_input_second = normed.to(expand.dtype.element_ty)

    for start in tl.range(0, HIDDEN, CHUNK, num_stages=STAGES):
        at = start + tl.arange(0, CHUNK)
        hidden = tl.zeros((PAIRS, CHUNK), tl.float32)
        hidden = _product(hidden_input, tl.load(expand + first[:, None] * HIDDEN + at[None, :]), hidden)
        if SECOND > 0:
            hidden = _product(hidden_input_second, tl.load(expand + second[:, None] * HIDDEN + at[None, :]), hidden)
        hidden = _activated(hidden + tl.load(expand_bias + at)[None, :], USE_GELU)
        x = _product(hidden, tl.load(contract + at[:, None] * WIDTH + first[None, :]), x)
        if SECOND > 0:
            y = _product(hidden, tl.load(contract + at[:, None] * WIDTH + second[None, :]), y)

    # The outer norm and the classifier in one, then what is read beside the first token.
    mean, scale = _moments(x, y, first, second, width, outer_epsilon, SECOND)
    for label in range(0, LABELS):
        logit = tl.sum(x * tl.load(read + label * WIDTH + first)[None, :], 1)
        if SECOND > 0:
            logit += tl.sum(y * tl.load(read + label * WIDTH + second)[None, :], 1)
        logit = (logit - mean * tl.load(read_sum + label)) * scale + tl.load(read_bias + label)
        if SIMILAR > 0:
            STEP: tl.constexpr = min(32, SECOND if SECOND > 0 else FIRST)
            for start in range(0, SIMILAR, STEP):
                at = start + tl.arange(0, STEP)[None, :]
                similar = tl.load(left_similar + (a * LABELS + label)[:, None] * SIMILAR + at).to(tl.float32)
                logit += tl.sum(similar * tl.load(right_similar + b[:, None] * SIMILAR + at).to(tl.float32), 1)
        if LARGEST:
            logit += tl.load(out + place * LABELS + label, mask=real, other=0.0)
        tl.store(out + place * LABELS + label, logit, mask=real)


@triton.jit(do_not_specialize=["lefts", "rights"])
def largest_program(
    rows: tl.tensor,  # (p, 2) int64, not read where every pair is scored
    out: tl.tensor,  # (p, c) fp32
    lefts: tl.tensor,
    rights: tl.tensor,
    left_tokens: tl.tensor,  # (n, k, d) bf16 of length one, real ones first, and so `right_tokens`
    left_weights: tl.tensor,  # (n, k, c) fp32, zero for padding, and so `right_weights`
    left_gaps: tl.tensor,  # the same of the squared gaps, not read without GAPS, and so `right_gaps`
    left_counts: tl.tensor,  # (n,) int32 real tokens, and so `right_counts`
    right_tokens: tl.tensor,
    right_weights: tl.tensor,
    right_gaps: tl.tensor,
    right_counts: tl.tensor,
    left_kept: tl.tensor,
    right_kept: tl.tensor,
    EVERY_PAIR: tl.constexpr,
    GAPS: tl.constexpr,
    LEFTS: tl.constexpr,
    RIGHTS: tl.constexpr,
    LEFT_TOKENS: tl.constexpr,
    RIGHT_TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    LABELS: tl.constexpr,
) -> None:
    """Each token's largest similarity in the other text, weighed: LEFTS x RIGHTS texts, or one pair by row numbers."""
    tile = tl.program_id(0).to(tl.int64)
    if EVERY_PAIR:
        across = tl.cdiv(rights, RIGHTS)
        first_left = (tile // across) * LEFTS
        first_right = (tile % across) * RIGHTS
    else:
        first_left = tl.load(rows + 2 * tile)
        first_right = tl.load(rows + 2 * tile + 1)
    row = tl.arange(0, LEFTS * LEFT_TOKENS)
    column = tl.arange(0, RIGHTS * RIGHT_TOKENS)
    a = tl.minimum(first_left + row // LEFT_TOKENS, lefts - 1)
    b = tl.minimum(first_right + column // RIGHT_TOKENS, rights - 1)
    left_real = row % LEFT_TOKENS < tl.load(left_counts + a)
    right_real = column % RIGHT_TOKENS < tl.load(right_counts + b)
    left_at = a * left_kept + row % LEFT_TOKENS
    right_at = b * right_kept + column % RIGHT_TOKENS
    cosines = tl.zeros((LEFTS * LEFT_TOKENS, RIGHTS * RIGHT_TOKENS), tl.float32)
    for start in range(0, WIDTH, STEP):
        at = start + tl.arange(0, STEP)
        left_block = tl.load(left_tokens + left_at[:, None] * WIDTH + at[None, :], mask=left_real[:, None], other=0.0)
        right_block = tl.load(
            right_tokens + right_at[None, :] * WIDTH + at[:, None], mask=right_real[None, :], other=0.0
        )
        cosines = _product(left_block, right_block, cosines)
    # Both directions of one block of cosines: a token's largest among the other text's, padding never.
    shape: tl.constexpr = (LEFTS, LEFT_TOKENS, RIGHTS, RIGHT_TOKENS)
    down = tl.max(tl.reshape(tl.where(right_real[None, :], cosines, float("-inf")), shape), 3)
    up = tl.max(tl.reshape(tl.where(left_real[:, None], cosines, float("-inf")), shape), 1)
    left_text = first_left + tl.arange(0, LEFTS)[:, None]
    right_text = first_right + tl.arange(0, RIGHTS)[None, :]
    for label in range(0, LABELS):
        left_share = tl.load(left_weights + left_at * LABELS + label, mask=left_real, other=0.0)
        right_share = tl.load(right_weights + right_at * LABELS + label, mask=right_real, other=0.0)
        logit = tl.sum(down * tl.reshape(left_share, (LEFTS, LEFT_TOKENS, 1)), 1)
        logit += tl.sum(up * tl.reshape(right_share, (1, RIGHTS, RIGHT_TOKENS)), 2)
        if GAPS:
            left_gap = tl.load(left_gaps + left_at * LABELS + label, mask=left_real, other=0.0)
            right_gap = tl.load(right_gaps + right_at * LABELS + label, mask=right_real, other=0.0)
            logit += tl.sum((1 - down) * (1 - down) * tl.reshape(left_gap, (LEFTS, LEFT_TOKENS, 1)), 1)
            logit += tl.sum((1 - up) * (1 - up) * tl.reshape(right_gap, (1, RIGHTS, RIGHT_TOKENS)), 2)
        if EVERY_PAIR:
            real = (left_text < lefts) & (right_text < rights)
            tl.store(out + (left_text * rights + right_text) * LABELS + label, logit, mask=real)
        else:
            tl.store(out + tile * LABELS + label + tl.zeros((1, 1), tl.int32), logit)


@triton.jit(do_not_specialize=["lefts", "rights"])
def sums_block_program(
    out: tl.tensor,  # (n, m, c) fp32
    lefts: tl.tensor,
    rights: tl.tensor,
    left: tl.tensor,  # (f, n') fp32: texts side by side, as many as whole tiles have
    right: tl.tensor,  # (f, m')
    left_stride: tl.tensor,
    right_stride: tl.tensor,
    read: tl.tensor,  # (f, LABELS) fp32
    read_bias: tl.tensor,  # (LABELS,)
    labels: tl.tensor,
    HIDDEN: tl.constexpr,
    LABELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    USE_GELU: tl.constexpr,
    UNROLL: tl.constexpr,
) -> None:
    """The folded feed-forward head with one hidden layer, ROWS x COLUMNS texts; LABELS is a power of two."""
    across = tl.cdiv(rights, COLUMNS)
    tile = tl.program_id(0)
    a = (tile // across) * ROWS + tl.arange(0, ROWS)
    b = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    place = a.to(tl.int64)[:, None] * rights + b[None, :]
    real = (a < lefts)[:, None] & (b < rights)[None, :]
    if LABELS == 1:
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for x in tl.range(0, HIDDEN, loop_unroll_factor=UNROLL):
            merged = tl.load(left + x * left_stride + a)[:, None] + tl.load(right + x * right_stride + b)[None, :]
            sums += _activated(merged, USE_GELU) * tl.load(read + x)
        tl.store(out + place, sums + tl.load(read_bias), mask=real)
    else:
        label = tl.arange(0, LABELS)
        sums_of = tl.zeros((LABELS, ROWS, COLUMNS), tl.float32)
        for x in tl.range(0, HIDDEN, loop_unroll_factor=UNROLL):
            merged = tl.load(left + x * left_stride + a)[:, None] + tl.load(right + x * right_stride + b)[None, :]
            weights = tl.load(read + x * LABELS + label)
            sums_of += _activated(merged, USE_GELU)[None, :, :] * weights[:, None, None]
        sums_of += tl.load(read_bias + label)[:, None, None]
        at = place[None, :, :] * labels + label[:, None, None]
        tl.store(out + at, sums_of, mask=real[None, :, :] & (label < labels)[:, None, None])


@triton.jit(do_not_specialize=["pairs"])
def sums_pairs_program(
    rows: tl.tensor,  # (p, 2) int64
    out: tl.tensor,  # (p, c) fp32
    pairs: tl.tensor,
    left: tl.tensor,  # (n, f) fp32
    right: tl.tensor,  # (m, f)
    read: tl.tensor,  # (f, LABELS) fp32
    read_bias: tl.tensor,  # (LABELS,)
    labels: tl.tensor,
    HIDDEN: tl.constexpr,
    LABELS: tl.constexpr,
    PAIRS: tl.constexpr,
    STEP: tl.constexpr,
    USE_GELU: tl.constexpr,
) -> None:
    """The folded feed-forward head with one hidden layer, of pairs by row numbers."""
    place = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    safe = tl.minimum(place, pairs - 1)
    left_row = left + tl.load(rows + 2 * safe)[:, None] * HIDDEN
    right_row = right + tl.load(rows + 2 * safe + 1)[:, None] * HIDDEN
    label = tl.arange(0, LABELS)
    sums = tl.zeros((PAIRS, LABELS), tl.float32)
    for start in range(0, HIDDEN, STEP):
        x = start + tl.arange(0, STEP)
        active = _activated(tl.load(left_row + x[None, :]) + tl.load(right_row + x[None, :]), USE_GELU)
        weights = tl.load(read + x[None, :] * LABELS + label[:, None])
        sums += tl.sum(active[:, None, :] * weights[None, :, :], 2)
    at = place[:, None] * labels + label[None, :]
    tl.store(out + at, sums + tl.load(read_bias + label)[None, :], mask=(place < pairs)[:, None] & (label < labels))
