"""The transfer set: blocks of texts that share many pairs, for a teacher to label and a batch to supervise.

An encoder pass costs a hundred times a head pass, so a batch should encode few texts and score many pairs of them. A
block starts from known rows that are neighbours; its cells are left x right pairs of its texts.

Shape legend: n rows; m distinct pairs among them; s sides; c labels; h width of the untrained encoder's embeddings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import numpy as np

from distilmatch.config.pairs import TransferConfig
from distilmatch.data.neighbours import nearest, neighbour_groups
from distilmatch.data.perturb import perturb
from distilmatch.errors import DataError
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

_MERGE_SHARE = 0.1
_REACH = 32
_LONGEST_LIST = 128  # rows of one query that are compared with one another, where rows are given


def pools_merge(table: TupleTable, config: TransferConfig) -> bool:
    """Whether a text may stand on either side: as `config.pool` says, or when a tenth of the texts already do."""
    if config.pool != "auto":
        return config.pool == "merged"
    if table.sides != 2:
        return False
    left, right = np.unique(table.rows[:, 0]), np.unique(table.rows[:, 1])
    both = len(np.intersect1d(left, right))
    return both >= _MERGE_SHARE * (len(left) + len(right) - both)


def build_blocks(table: TupleTable, embeddings: np.ndarray, config: TransferConfig, seed: int = 0) -> TupleTable:
    """The transfer set of a table of pairs, block after block.

    Args:
        table: n rows; the cell that holds a row's pair keeps its gold label and its teacher's labels. Of a pair that stands
            there several times the last labelled row counts; where they contradict one another that is logged. Texts
            that stand in no row are the unlabelled ones that `config.unlabelled` draws from.
        embeddings: (texts, h) float32, normalised, row i of `table.texts[i]`, from the untrained encoder.
        config: how blocks are made.
        seed: everything here follows from it.

    Returns:
        A table with `blocks`, and further texts at its end when some are perturbed. Every row of `table` is a cell
        once a round; a cell without a known row has no gold label and, of a table with teacher labels, NaN for them.
        With no rounds, or with other than two sides, the rows themselves, grouped with their neighbours into blocks; those
        of a ranking by query.

    Raises:
        DataError: the table is empty.
    """
    if len(table) == 0:
        raise DataError("the table has no row to build blocks from")
    assert len(embeddings) == len(table.texts), (len(embeddings), len(table.texts))
    rng = np.random.default_rng(seed)
    vectors = np.mean([embeddings[table.rows[:, j]] for j in range(table.sides)], axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    if config.rounds == 0 or table.sides != 2:
        return _grouped_rows(table, vectors, config, rng)
    builder = _BlockBuilder(table, embeddings, config, rng)
    for _ in range(config.rounds_for(len(table))):
        for members in neighbour_groups(vectors, config.block_size, rng):
            builder.add(members)
    return builder.table()


def _grouped_rows(
    table: TupleTable, vectors: np.ndarray, config: TransferConfig, rng: np.random.Generator
) -> TupleTable:
    if table.queries is None:
        groups = neighbour_groups(vectors, config.cells_per_block, rng)
    else:
        groups = _whole_queries(table.queries, config.cells_per_block, rng)
    blocks = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return replace(table.take(np.concatenate(groups)), blocks=blocks)


def _whole_queries(queries: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Parts the rows of a ranking, (n,) numbers of their queries, into groups of about `size` rows that cut no query's list.

    A list longer than `size` is a group of its own, and one longer than 128 rows is cut into several.
    """
    order = np.argsort(queries, kind="stable")
    lists = np.split(order, np.flatnonzero(np.diff(queries[order])) + 1)
    longest = max(size, _LONGEST_LIST)
    groups: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    for number in rng.permutation(len(lists)):
        rows = rng.permutation(lists[number])
        if waiting and sum(map(len, waiting)) + len(rows) > size:
            groups.append(np.concatenate(waiting))
            waiting = []
        while len(rows) > longest:
            groups.append(rows[:longest])
            rows = rows[longest:]
        waiting.append(rows)
    groups.append(np.concatenate(waiting))
    return groups


@dataclass
class _BlockBuilder:
    source: TupleTable
    embeddings: np.ndarray
    config: TransferConfig
    rng: np.random.Generator
    cells: list[np.ndarray] = field(default_factory=list)
    known: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.merged = pools_merge(self.source, self.config)
        self.texts = list(self.source.texts)
        self.origins = list(range(len(self.texts)))  # whose embedding stands for a text's
        rows = self.source.rows
        pools = [np.unique(rows)] * 2 if self.merged else [np.unique(rows[:, 0]), np.unique(rows[:, 1])]
        self.pools = pools
        self.number_of_text = {self.texts[i]: int(i) for i in pools[1]}
        self.distinct = _DistinctPairs.of(self.source)
        self.number_of_pair = {(int(left), int(right)): i for i, (left, right) in enumerate(self.distinct.rows)}
        self.partners: dict[int, set[int]] = {}
        for left, right in rows.tolist():
            self.partners.setdefault(left, set()).add(right)
        self.matches = _matches(self.source)
        self.neighbours: np.ndarray | None = None
        if self.config.near or self.config.hard_negatives:
            self.neighbours = pools[1][nearest(self.embeddings, self.embeddings[pools[1]], _REACH)]
        self.unlabelled: np.ndarray | None = None
        unused = np.setdiff1d(np.arange(len(self.texts)), rows)
        if self.config.unlabelled and len(unused):
            self.unlabelled = unused[nearest(self.embeddings, self.embeddings[unused], _REACH)]

    def add(self, members: np.ndarray) -> None:
        """One block from the known rows at `members`."""
        known = self.source.rows[members]
        left, right = self._sides(known)
        added = self._additions(left, right)
        altered = self._altered(right, known[self.matches[members], 1])
        right = np.unique(np.concatenate([right, *added, np.array([copy for _, copy in altered], dtype=np.int64)]))
        if self.merged:
            left = np.union1d(left, right)
        # Each altered copy meets the texts that its original is known with: near pairs, some of them no match any more.
        near = [(a, copy) for original, copy in altered for a, b in known.tolist() if b == original]
        self._emit(known, left, right, near)

    def _sides(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        limit = self.config.max_texts
        if self.merged:
            texts = list(dict.fromkeys(known.ravel().tolist()))[:limit]
            return np.array(texts), np.array(texts)
        left, right = (list(dict.fromkeys(known[:, j].tolist()))[:limit] for j in (0, 1))
        return np.array(left), np.array(right)

    def _additions(self, left: np.ndarray, right: np.ndarray) -> list[np.ndarray]:
        config, added = self.config, []
        present = set(right.tolist())
        if self.neighbours is not None:
            near = [i for i in self.rng.permutation(self.neighbours[left].ravel()).tolist() if i not in present]
            added.append(_first(near, config.near))
            partners = set().union(*(self.partners.get(i, set()) for i in left.tolist()))
            added.append(_first([i for i in near if i not in partners], config.hard_negatives))
        if self.unlabelled is not None:
            near = self.rng.permutation(self.unlabelled[left].ravel()).tolist()
            added.append(_first(near, config.unlabelled))
        if config.random:
            added.append(self.rng.choice(self.pools[1], min(config.random, len(self.pools[1])), replace=False))
        return added

    def _altered(self, right: np.ndarray, matched: np.ndarray) -> list[tuple[int, int]]:
        """Texts of the right side and altered copies of theirs; half of them, where there are matches, of their right texts."""
        if not self.config.perturbed:
            return []
        of_matches = self.config.perturbed // 2 if len(matched) else 0
        others = min(self.config.perturbed - of_matches, len(right))
        chosen = [*self.rng.choice(right, others, replace=False).tolist()]
        chosen += self.rng.choice(matched, of_matches).tolist() if of_matches else []
        donors = self.rng.choice(right, len(chosen))  # neighbours of the text: what comes out is of its kind
        made = []
        for text, donor in zip(chosen, donors.tolist(), strict=True):
            altered = perturb(self.source.texts[text], self.rng, self.source.texts[donor])
            if altered and altered != self.source.texts[text]:
                made.append((int(text), self._number(altered, self.origins[text])))
        return made

    def _number(self, altered: str, origin: int) -> int:
        # An altered text may be another text of its side: then its pairs are known ones, with their labels.
        if altered not in self.number_of_text:
            self.number_of_text[altered] = len(self.texts)
            self.texts.append(altered)
            self.origins.append(origin)
        return self.number_of_text[altered]

    def _emit(self, known: np.ndarray, left: np.ndarray, right: np.ndarray, near: list[tuple[int, int]]) -> None:
        cells = np.stack(np.meshgrid(left, right, indexing="ij"), -1).reshape(-1, 2)
        taken = {(int(a), int(b)) for a, b in known}
        near = [pair for pair in dict.fromkeys(near) if pair not in taken and pair[0] != pair[1]]
        near = near[: max(0, self.config.cells_per_block - len(known))]
        known = np.concatenate([known, np.array(near, dtype=np.int64).reshape(-1, 2)])
        taken.update(near)
        is_new = np.array([a != b and (a, b) not in taken for a, b in cells.tolist()], dtype=bool)
        cells = cells[is_new]
        room = max(0, self.config.cells_per_block - len(known))
        if len(cells) > room:
            cells = self._chosen(cells, room)
        cells = np.concatenate([known, cells])
        source = np.array([self.number_of_pair.get((a, b), -1) for a, b in cells.tolist()])
        self.cells.append(cells)
        self.known.append(source)

    def _chosen(self, cells: np.ndarray, room: int) -> np.ndarray:
        # The most similar pairs first, then others at random: near pairs are where a matcher must tell apart.
        near = round(self.config.near_cells * room)
        if near == 0:
            return cells[self.rng.choice(len(cells), room, replace=False)]
        vectors = self.embeddings[np.array(self.origins)[cells]]
        order = np.argsort(-(vectors[:, 0] * vectors[:, 1]).sum(-1), kind="stable")
        others = self.rng.choice(order[near:], room - near, replace=False)
        return cells[np.concatenate([order[:near], others])]

    def table(self) -> TupleTable:
        """The blocks as one table."""
        rows = np.concatenate(self.cells)
        known = np.concatenate(self.known)
        blocks = np.repeat(np.arange(len(self.cells)), [len(cells) for cells in self.cells])
        gold = None if self.distinct.gold is None else _of_known(self.distinct.gold[:, None], known)[:, 0]
        teacher = None if self.distinct.teacher is None else _of_known(self.distinct.teacher, known)
        queries = rows[:, 0].copy() if self.source.queries is not None else None
        names = self.source.side_names
        return TupleTable(
            texts=self.texts,
            rows=rows,
            side_names=names,
            gold=gold,
            teacher=teacher,
            queries=queries,
            blocks=blocks,
        )


def _matches(table: TupleTable) -> np.ndarray:
    """(n,) whether a row is known to be a match: labels of 0 and 1 alone, or graded relevances above 0."""
    gold = np.zeros(len(table)) if table.gold is None else np.nan_to_num(table.gold)
    if table.queries is None and not np.isin(gold, (0.0, 1.0)).all():
        return np.zeros(len(table), dtype=bool)
    return np.asarray(gold > 0)


@dataclass(frozen=True, kw_only=True)
class _DistinctPairs:
    """Each pair of a table once: (m, 2) rows, with (m,) gold and (m, c) teacher labels, NaN where no row has them."""

    rows: np.ndarray
    gold: np.ndarray | None
    teacher: np.ndarray | None

    @classmethod
    def of(cls, table: TupleTable) -> _DistinctPairs:
        rows, number = np.unique(table.rows, axis=0, return_inverse=True)
        number = number.reshape(-1)
        gold = None if table.gold is None else _last_labels(table.gold[:, None], number, len(rows), "gold labels")[:, 0]
        teacher = None if table.teacher is None else _last_labels(table.teacher, number, len(rows), "teacher labels")
        return cls(rows=rows, gold=gold, teacher=teacher)


def _last_labels(labels: np.ndarray, number: np.ndarray, count: int, what: str) -> np.ndarray:
    """(count, c) float32 labels of the last labelled row of each pair, of (n, c) labels and (n,) numbers of their pairs."""
    labelled = np.flatnonzero(~np.isnan(labels).any(axis=1))
    last = np.full(count, -1)
    last[number[labelled]] = labelled  # numpy keeps the last of several values for one place
    pair_labels = _of_known(labels, last)
    contradicted = np.unique(number[labelled][(labels[labelled] != pair_labels[number[labelled]]).any(axis=1)])
    if len(contradicted):
        logger.warning(
            "%d pair(s) stand in several rows with different %s: the last one counts (the first such pair: row %d)",
            len(contradicted),
            what,
            int(last[contradicted].min()) + 1,
        )
    return pair_labels


def _of_known(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The (r, c) float32 labels of the rows at `known`, NaN for -1."""
    return np.where(known[:, None] >= 0, labels[known], np.float32(np.nan)).astype(np.float32)


def _first(values: list[int], count: int) -> np.ndarray:
    return np.array(list(dict.fromkeys(values))[:count], dtype=np.int64)
