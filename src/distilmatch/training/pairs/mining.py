"""Mined pairs: what the student, after its first stage, takes for a match among texts that no labelled pair joins.

A transfer set is made before there is a student: it can hold neighbours, not mistakes. Of near pairs by the student's own
vectors, near pairs by their words, and pairs at random, those that the student ranks highest are labelled by the teacher and
learnt in the later stages, in blocks of their own (hard negatives by a model as in ANCE, arXiv 2007.00808, with a teacher's
labels, so that a match that nobody knew stays one).

Shape legend: l left texts; r right texts; m mined texts of each left text; k candidates; c labels.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from scipy.special import softmax

from distilmatch.config.pairs import TransferConfig
from distilmatch.data.blocks import pools_merge
from distilmatch.data.neighbours import nearest, neighbour_groups
from distilmatch.models import DiPair
from distilmatch.models.pooled import pooled_vectors
from distilmatch.runtime import Precision
from distilmatch.teachers.lexical import LexicalScores, unit_of
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

MOST_LEFT, MOST_RIGHT = 4096, 32_768
_NEAR, _RANDOM = 32, 64  # candidates of a left text, by each way
CANDIDATES = 2 * _NEAR + _RANDOM
_CHUNK = 2048  # texts encoded at once


def mined_blocks(
    model: DiPair,
    transfer: TupleTable,
    train: TupleTable,
    config: TransferConfig,
    seed: int,
    precision: Precision = "auto",
) -> TupleTable:
    """Blocks of mined pairs over the texts of a transfer set; cells that it has labels for keep them.

    Args:
        model: the student after its first stage.
        transfer: the labelled transfer set.
        train: the rows that it was made from; further texts, in no row, are unlabelled ones.
        config: `mined`, `block_size` and `cells_per_block`.
        seed: of the texts that are looked at, where there are many, and of all that is random.

    Returns:
        A table like `transfer`, with NaN for the teacher's labels of new pairs; without a row where nothing was found.
    """
    rng = np.random.default_rng(seed)
    left, right, partners = _pools(transfer, train, config, rng)
    left_vectors, right_vectors, candidates, scores = _candidates(model, transfer, left, right, rng, precision)
    known = {(int(a), int(b)) for a, b in transfer.rows}
    mined = [_best(left[i], right[candidates[i]], scores[i], known, config.mined) for i in range(len(left))]
    cells = [
        _cells([left[i] for i in members], [mined[i] for i in members], partners, config.cells_per_block, rng)
        for members in neighbour_groups(left_vectors, config.block_size, rng)
    ]
    cells = [each for each in cells if len(each)]
    logger.info(
        "mined %d pairs that the student takes for matches, of %d candidates", sum(map(len, mined)), candidates.size
    )
    return _table(transfer, cells)


def joined(transfer: TupleTable, mined: TupleTable) -> TupleTable:
    """Both tables' blocks as one table; they share their texts."""
    if len(mined) == 0:
        return transfer
    assert transfer.blocks is not None and mined.blocks is not None

    def both(name: str) -> np.ndarray | None:
        first, second = getattr(transfer, name), getattr(mined, name)
        return None if first is None else np.concatenate([first, second])

    return replace(
        transfer,
        rows=np.concatenate([transfer.rows, mined.rows]),
        gold=both("gold"),
        teacher=both("teacher"),
        queries=both("queries"),
        blocks=np.concatenate([transfer.blocks, mined.blocks + int(transfer.blocks.max()) + 1]),
        ids=None,
    )


def _pools(
    transfer: TupleTable, train: TupleTable, config: TransferConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[int, list[int]]]:
    """The left and right texts that are looked at, (l,) and (r,) numbers in `transfer`, and the known partners of the left."""
    number = {text: i for i, text in enumerate(transfer.texts)}
    rows = np.array([[number[train.texts[i]] for i in row] for row in train.rows.tolist()])
    partners: dict[int, list[int]] = {}
    for a, b in rows.tolist():
        partners.setdefault(a, []).append(b)
    used = set(np.unique(train.rows).tolist())
    unlabelled = [number[text] for i, text in enumerate(train.texts) if i not in used and text in number]
    merged = pools_merge(train, config)
    left = np.unique(rows) if merged else np.unique(rows[:, 0])
    right = np.unique(np.concatenate([rows.ravel() if merged else rows[:, 1], np.array(unlabelled, dtype=np.int64)]))
    if len(left) > MOST_LEFT:
        left = rng.choice(left, MOST_LEFT, replace=False)
    if len(right) > MOST_RIGHT:
        right = rng.choice(right, MOST_RIGHT, replace=False)
    return left, right, partners


def _candidates(
    model: DiPair,
    table: TupleTable,
    left: np.ndarray,
    right: np.ndarray,
    rng: np.random.Generator,
    precision: Precision,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(l, d) and (r, d) vectors, (l, k) places among the right texts, and (l, k) how much the student takes them for matches."""
    left_texts, right_texts = ([table.texts[i] for i in side] for side in (left, right))
    sides = [model.encode(texts, side, precision=precision) for side, texts in enumerate((left_texts, right_texts))]
    vectors = [pooled_vectors(model, side) for side in sides]
    by_vectors = nearest(vectors[0], vectors[1], _NEAR)
    by_words = LexicalScores(table, unit_of(table)).nearest(left_texts, right_texts, _NEAR)
    at_random = rng.integers(len(right), size=(len(left), min(_RANDOM, len(right))))
    candidates = np.concatenate([by_vectors, by_words, at_random], axis=1)
    rows = np.stack([np.repeat(np.arange(len(left)), candidates.shape[1]), candidates.ravel()], 1)
    logits = model.score(*sides, rows=rows, precision=precision)
    return vectors[0], vectors[1], candidates, _match(logits).reshape(candidates.shape)


def _match(logits: np.ndarray) -> np.ndarray:
    """(n,) how much a pair is worth a label, of (n, c) logits: its score; of classes how unsure the student is of them."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return 1 - softmax(logits, axis=1).max(axis=1)


def _best(left: int, right: np.ndarray, scores: np.ndarray, known: set[tuple[int, int]], count: int) -> list[int]:
    """The `count` texts with the highest scores that stand in no known pair with `left`."""
    chosen: dict[int, None] = {}
    for place in np.argsort(-scores, kind="stable"):
        text = int(right[place])
        if text != left and (int(left), text) not in known:
            chosen.setdefault(text)
        if len(chosen) == count:
            break
    return list(chosen)


def _cells(
    left: list[int], mined: list[list[int]], partners: dict[int, list[int]], most: int, rng: np.random.Generator
) -> np.ndarray:
    """(p, 2) cells of a block: the mined pairs, a known pair of each left text, and others of its texts."""
    first = [(int(a), b) for a, own in zip(left, mined, strict=True) for b in own]
    if not first:
        return np.empty((0, 2), dtype=np.int64)
    first += [(int(a), int(rng.choice(partners[int(a)]))) for a in left if int(a) in partners]
    first = list(dict.fromkeys(first))[:most]
    taken = set(first)
    right = list(dict.fromkeys(b for _, b in first))
    others = [(int(a), b) for a in left for b in right if (int(a), b) not in taken and a != b]
    room = min(most - len(first), len(others))
    more = [others[i] for i in rng.choice(len(others), room, replace=False)] if room > 0 else []
    return np.array([*first, *more], dtype=np.int64)


def _table(transfer: TupleTable, cells: list[np.ndarray]) -> TupleTable:
    rows = np.concatenate(cells) if cells else np.empty((0, 2), dtype=np.int64)
    place = {(int(a), int(b)): i for i, (a, b) in enumerate(transfer.rows)}
    known = np.array([place.get((a, b), -1) for a, b in rows.tolist()], dtype=np.int64)

    def kept(column: np.ndarray | None) -> np.ndarray | None:
        if column is None:
            return None
        taken = column[known].astype(np.float32)
        taken[known < 0] = np.nan
        return taken

    return replace(
        transfer,
        rows=rows,
        gold=kept(transfer.gold),
        teacher=kept(transfer.teacher),
        queries=None if transfer.queries is None else rows[:, 0].copy(),
        blocks=np.repeat(np.arange(len(cells)), [len(each) for each in cells]),
        ids=None,
    )
