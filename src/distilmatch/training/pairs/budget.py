"""Which pairs of a transfer set a teacher is asked for, where it may be asked for few.

Spread over the blocks, for a label is worth most beside others of texts that it shares; half of a block's share goes to pairs
of which two cheap scores disagree, for there a student that starts from one of them has most to learn, half to others at
random, without which the teacher's easy answers would never be seen.

Shape legend: n cells; t texts; h width of an embedding; m distinct pairs.
"""

from __future__ import annotations

import logging

import numpy as np
from scipy.stats import rankdata

from distilmatch.errors import ConfigError
from distilmatch.teachers.lexical import LexicalScores, unit_of
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

FEWEST = 2  # of a block: one label has nothing to be compared with


def within_budget(table: TupleTable, embeddings: np.ndarray, budget: int, seed: int) -> TupleTable:
    """The cells of a transfer set that have labels of a teacher, and those that it will be asked for; the same for the same seed.

    Args:
        table: blocks; all n cells together may hold more distinct pairs than the budget.
        embeddings: (t, h) float32, normalised, of the table's texts, by the untrained encoder.
        budget: distinct pairs that may be asked for.

    Returns:
        The cells of at most `budget` distinct pairs, and of those that are labelled already, in their order.

    Raises:
        ConfigError: the budget is below two for each block.
    """
    assert table.blocks is not None
    unasked = np.ones(len(table), dtype=bool) if table.teacher is None else np.isnan(table.teacher).any(axis=1)
    cells = np.flatnonzero(unasked)
    _, first, pair = np.unique(table.rows[cells], axis=0, return_index=True, return_inverse=True)
    pair = pair.reshape(-1)
    blocks = table.blocks[cells[first]]  # (m,) a pair of several blocks counts in the first
    count = len(np.unique(blocks))
    if budget < FEWEST * count:
        raise ConfigError(
            f"`teacher.budget: {budget}` is below two labels for each of the {count} blocks, and one alone has nothing to be "
            "compared with: raise it, or make fewer blocks (leave `transfer.rounds` out, or raise `transfer.block_size`)"
        )
    if len(first) <= budget:
        return table
    doubt = disagreement(table.take(cells[first]), embeddings)
    chosen = chosen_pairs(blocks, doubt, budget, np.random.default_rng(seed))
    kept = ~unasked
    kept[cells] = chosen[pair]
    logger.info("the teacher is asked for %d of %d pairs, spread over %d blocks", int(chosen.sum()), len(first), count)
    return table.take(kept)


def disagreement(table: TupleTable, embeddings: np.ndarray) -> np.ndarray:
    """(n,) from 0 to 1: how far apart the ranks are that two cheap scores give a pair among all: the cosine of the untrained
    encoder's embeddings, from which a student starts, and that of TF-IDF, which sees the words that it blurs.
    """
    by_meaning = (embeddings[table.rows[:, 0]] * embeddings[table.rows[:, 1]]).sum(axis=1)
    by_words, _ = LexicalScores(table, unit_of(table)).scores(table)
    ranks = [rankdata(scores) / len(table) for scores in (by_meaning, by_words)]
    return np.asarray(np.abs(ranks[0] - ranks[1]))


def chosen_pairs(blocks: np.ndarray, doubt: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """(m,) whether each pair is asked for: `budget` of them, or all where there are fewer.

    Args:
        blocks: (m,) of each pair; doubt: (m,) how much it is worth a question.
    """
    numbers, place, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    quotas = _shares(sizes, budget, rng)
    chosen = np.zeros(len(blocks), dtype=bool)
    by_block = np.split(np.argsort(place, kind="stable"), np.cumsum(sizes)[:-1])
    for quota, members in zip(quotas.tolist(), by_block, strict=True):
        by_doubt = members[np.argsort(-doubt[members], kind="stable")]
        doubtful = (quota + 1) // 2
        chosen[by_doubt[:doubtful]] = True
        chosen[rng.choice(by_doubt[doubtful:], quota - doubtful, replace=False)] = True
    return chosen


def _shares(sizes: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """How many of each block: as even as the blocks' sizes allow, what is left over to some blocks at random."""
    shares = np.zeros_like(sizes)
    while (left := min(budget, int(sizes.sum())) - int(shares.sum())) > 0:
        open_blocks = np.flatnonzero(shares < sizes)
        if left < len(open_blocks):
            shares[rng.choice(open_blocks, left, replace=False)] += 1
        else:
            shares[open_blocks] += np.minimum(left // len(open_blocks), (sizes - shares)[open_blocks])
    return shares
