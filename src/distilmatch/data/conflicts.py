"""Equal rows with unequal labels: no model can fit both, so they are counted and said.

Shape legend: n rows; s sides.
"""

from __future__ import annotations

import logging

import numpy as np

from distilmatch.data.columns import shortened
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)


def conflicting_rows(table: TupleTable) -> list[np.ndarray]:
    """Rows of equal texts whose gold labels differ: for each such tuple of texts the places of its labelled rows, ascending."""
    if table.gold is None:
        return []
    labelled = np.flatnonzero(~np.isnan(table.gold))
    if not len(labelled):
        return []
    order = labelled[np.lexsort((labelled, *table.rows[labelled].T))]
    rows, gold = table.rows[order], table.gold[order]
    starts = np.flatnonzero(np.r_[True, np.any(rows[1:] != rows[:-1], axis=1)])
    ends = np.r_[starts[1:], len(order)]
    differ = np.flatnonzero(np.minimum.reduceat(gold, starts) < np.maximum.reduceat(gold, starts))
    return sorted((order[starts[group] : ends[group]] for group in differ), key=lambda places: int(places[0]))


def warn_of_conflicts(table: TupleTable, places: np.ndarray, file: str) -> None:
    """Says how many rows contradict one another.

    Args:
        places: (n,) int64, the number of each row in its file.
    """
    groups = conflicting_rows(table)
    if not groups:
        return
    assert table.gold is not None
    first = groups[0][0]
    other = next(row for row in groups[0][1:] if table.gold[row] != table.gold[first])
    texts = " | ".join(shortened(table.texts[text]) for text in table.rows[first])
    logger.warning(
        "%s: %d pairs of equal texts have labels that contradict one another, in %d rows; the first are row %d (label %g) and "
        "row %d (label %g): %s",
        file,
        len(groups),
        sum(len(group) for group in groups),
        places[first],
        table.gold[first],
        places[other],
        table.gold[other],
        texts,
    )
