"""Bulk match: for each item of one side its best of the other, or all pairs above a threshold; to a file, resumable.

The kernels compare distinct texts; `match_output` makes items of them.

Shape legend: n, m texts of the two sides; d width of vectors; b texts of a block of the first side; k best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

from distilmatch.engine.candidates import CandidateIndex, IndexKind
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.scorer import BestMatches, Matches, Scorer, recall
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.files import check_outputs
from distilmatch.fingerprint import fingerprint, fingerprint_tensors
from distilmatch.jobs.folder_texts import check_texts
from distilmatch.jobs.match_output import MatchedSide, MatchTables, ReverseMatches
from distilmatch.jobs.outputs import job_of, one_of, output_file, whole_number
from distilmatch.jobs.parts import PartWriter, parts_folder
from distilmatch.store.folder import RepresentationFolder, opened_folder

_PAIRS_A_PART = 2**28
_PAIRS_A_PART_KEPT = 2**25  # under a low threshold all of them are kept
_MOST_ROWS_A_PART = 65_536
_FEWEST_ROWS_A_PART = 64
_RECALL_PAIRS = 2**26


@dataclass(frozen=True, kw_only=True)
class MatchReport:
    """What a match did.

    Attributes:
        rows: of the output.
        pairs: that were scored, those of an earlier, stopped run of the same job included.
        recall: of candidates: the mean share of the exact best that they found, over a sample; None without.
        sampled: texts of that sample.
    """

    rows: int
    pairs: int
    recall: float | None = None
    sampled: int = 0


def match_folders(
    scorer: Scorer,
    left: RepresentationFolder | str | Path,
    right: RepresentationFolder | str | Path,
    output: str | Path,
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    reverse_output: str | Path | None = None,
    num_candidates: int | None = None,
    index: IndexKind = "hnsw",
    vectors: tuple[np.ndarray, np.ndarray] | None = None,
    by: Literal["logit", "probability", "expectation"] | None = None,
    label: str | int | None = None,
    values: Sequence[float] | None = None,
    distinct_texts: bool = False,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    rows_a_part: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    show_progress_bar: bool | None = None,
) -> MatchReport:
    """Matches two folders of representations; the encoders are not used.

    What is matched are the folders' items: each distinct id, or without ids each row of the table that was encoded; items of
    one text have one score. Killed and called again in the same way, it goes on after the last whole part.

    Args:
        scorer: the model and its kernel.
        left, right: the folders of the first and the second side, or their paths.
        output: Parquet, or the form of its ending (.csv, .tsv, .jsonl), by items of the first side in the order of their table:
            `SIDE_row`, the row of the table from 0, and, where the folder has ids, `SIDE_id` of both; `rank` from 1 (with
            `top_k`); with one label `logit`, raw fp32, and `score`, its sigmoid, as `score` gives it; with several `score` is
            what is ranked. Equal logits are ranked by the row.
        top_k: how many items of the right side for each of the left; or
        threshold: all pairs whose score, as the output has it, is above it.
        reverse_output: also the `top_k` of the left side for each of the right, in this file.
        num_candidates: score only so many nearest texts by their pooled vectors (`index`), not all; the share of the
            exact best that this finds is measured on a sample of the left side.
        vectors: (n, d) and (m, d) fp32 by which they are near instead, such as a sentence encoder's (`folder_vectors`).
        by, label, values: what is ranked where the model has several labels, see `Ranking.of`; the logit by default.
        distinct_texts: match and count texts: of the items of one text the first alone.
        texts: those of both folders, row by row (`folder_texts`), which the output then shows as `SIDE_text`.
        rows_a_part: left texts a part file, the step in which a killed job goes on; by the size of the right side.
        dry_run: check everything and count; nothing is scored or written.
        resume, overwrite, show_progress_bar: as in `score_table`.

    Raises:
        ConfigError, ModelError, DataError: as `Scorer.all_pairs`, or an output that is one of the folders or the other output;
            before anything is written.
        CacheError: the output holds something else, is being written by another process or cannot be written; or a folder is
            damaged.
    """
    folders = opened_folder(left), opened_folder(right)
    wanted = _Wanted(
        top_k=top_k, threshold=threshold, num_candidates=num_candidates, index=index, by=by or "logit", label=label,
        values=None if values is None else tuple(values), vectors=vectors,
    )  # fmt: skip
    wanted.check(scorer, folders, reverse_output is not None)
    place, reverse_place = check_match(output, reverse_output, folders)
    if rows_a_part is not None:
        whole_number("rows_a_part", rows_a_part)
    tables = _tables(scorer, folders, wanted, distinct_texts, texts)
    _check_top_k(tables, top_k, reverse_place is not None, "texts" if distinct_texts else "items")
    sides = [scorer.load(folder, j) for j, folder in enumerate(folders)]
    pairs_a_part = _PAIRS_A_PART if threshold is None else _PAIRS_A_PART_KEPT
    pairs_a_text = min(num_candidates or len(sides[1]), len(sides[1]))
    step = rows_a_part or max(_FEWEST_ROWS_A_PART, min(_MOST_ROWS_A_PART, pairs_a_part // pairs_a_text))
    job = fingerprint(
        *wanted.facts(scorer, folders),
        [bool(reverse_place), distinct_texts, texts is not None, tables.schema.names, step],
    )
    pairs = len(sides[0]) * pairs_a_text
    if dry_run:
        return MatchReport(rows=0, pairs=pairs)
    if reverse_place is not None and reverse_place.exists() and not overwrite and job_of(reverse_place) != job.encode():
        raise CacheError(f"{reverse_place} exists and holds something else; name another file, or overwrite it")
    with PartWriter(place, tables.schema, job, resume=resume, overwrite=overwrite) as writer:
        reverse = None
        if reverse_place is not None and top_k is not None:
            reverse = ReverseMatches(writer, len(sides[1]), min(top_k, len(sides[0])), reverse_place, job)
        done = writer.finished_rows is not None and (reverse is None or job_of(reverse.path) == job.encode())
        run = _Run(scorer, sides, wanted, tables, reverse)
        if not done:
            run.write(writer, step, show_progress_bar)
    assert writer.finished_rows is not None
    share, sampled = (None, 0) if done else run.recall()
    return MatchReport(rows=writer.finished_rows, pairs=pairs, recall=share, sampled=sampled)


def check_match(
    output: str | Path,
    reverse_output: str | Path | None,
    folders: Sequence[RepresentationFolder],
    more_inputs: Mapping[str, Any] | None = None,
    more_outputs: Mapping[str, Any] | None = None,
) -> tuple[Path, Path | None]:
    """Checks the outputs before anything is read; their paths.

    Args:
        more_inputs: what else is read, by what messages call it, such as the model's folder.
        more_outputs: what else is written.

    Raises:
        ConfigError: an output that cannot be written, is the other one, or is an input or in one.
    """
    place = output_file(output)
    reverse = None if reverse_output is None else output_file(reverse_output, "the reverse output")
    inputs = {f"the {side} folder": folder.path for side, folder in zip(("left", "right"), folders, strict=True)}
    outputs = {"the output": place, "the reverse output": reverse, "the folder of its parts": parts_folder(place)}
    check_outputs({**outputs, **(more_outputs or {})}, {**inputs, **(more_inputs or {})})
    return place, reverse


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    # What is to be found, and of which texts it is looked for.
    top_k: int | None
    threshold: float | None
    num_candidates: int | None
    index: IndexKind
    by: Literal["logit", "probability", "expectation"]
    label: str | int | None
    values: tuple[float, ...] | None
    vectors: tuple[np.ndarray, np.ndarray] | None

    @property
    def ranking(self) -> dict[str, Any]:
        return {"by": self.by, "label": self.label, "values": self.values}

    def check(self, scorer: Scorer, folders: Sequence[RepresentationFolder], reverse: bool) -> None:
        for name in ("top_k", "num_candidates"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        one_of("index", self.index, get_args(IndexKind))
        _check(self.top_k, self.threshold, reverse, self.num_candidates)
        if self.vectors is not None:
            if self.num_candidates is None:
                raise ConfigError("vectors find candidates: say how many (num_candidates)")
            held = [len(part) for part in self.vectors]
            texts = [len(folder) for folder in folders]
            if held != texts:
                raise ConfigError(
                    f"{held[0]:,} and {held[1]:,} vectors for {texts[0]:,} and {texts[1]:,} texts: one a row"
                )
        student = scorer.model.student
        if student.sides != 2:
            raise ModelError(f"matching is between two sides, this model has {student.sides}; score its tuples instead")
        Ranking.of(scorer.model.task, **self.ranking)
        self.limit(scorer.model.task.num_labels == 1)

    def limit(self, one_label: bool) -> float | None:
        """The threshold of what is ranked."""
        if self.threshold is None or not one_label:
            if self.threshold is not None and not math.isfinite(self.threshold):
                raise ConfigError(f"the threshold is {self.threshold}, it must be a number")
            return self.threshold
        return _logit(self.threshold)

    def facts(self, scorer: Scorer, folders: Sequence[RepresentationFolder]) -> list[Any]:
        """What the job's fingerprint is of."""
        model = scorer.model
        held = []
        for folder in folders:
            held.append(folder.manifest.to_dict())
            if folder.manifest.checksums is None:
                held.append({"keys": fingerprint(b"".join(folder.keys).hex()), "ids": fingerprint(folder.items()[2])})
        found_by = self.index if self.num_candidates else None
        facts = [
            [fingerprint_tensors(model.state_dict()), model.task.to_dict(), model.student.to_dict()],
            held,
            [self.top_k, self.threshold, self.num_candidates, found_by],
            [self.by, str(self.label), list(self.values or ()), scorer.kernel.name],
        ]
        if self.vectors is not None:
            parts = ((str(j), torch.from_numpy(part)) for j, part in enumerate(self.vectors))
            facts.append([fingerprint_tensors(parts)])
        return facts


def _tables(
    scorer: Scorer,
    folders: Sequence[RepresentationFolder],
    wanted: _Wanted,
    distinct_texts: bool,
    texts: tuple[Sequence[str], Sequence[str]] | None,
) -> MatchTables:
    if texts is not None and len(texts) != 2:
        raise ConfigError(f"`texts` must be those of the left and those of the right folder, not {len(texts)} lists")
    matched = []
    for j, folder in enumerate(folders):
        name = scorer.model.student.side_names[j]
        items = folder.item_table.first_of_texts() if distinct_texts else folder.item_table
        shown = None if texts is None else check_texts(texts[j], folder, f"the texts of {name}")
        matched.append(MatchedSide(name, items, shown))
    task = scorer.model.task
    ranking = Ranking.of(task, **wanted.ranking)
    return MatchTables(matched[0], matched[1], wanted.top_k, ranking, task.num_labels == 1)


def _check_top_k(tables: MatchTables, top_k: int | None, reverse: bool, counted: str) -> None:
    left, right = len(tables.left.items), len(tables.right.items)
    most = min(left, right) if reverse else right
    if top_k is not None and top_k > most:
        raise ConfigError(f"top_k is {top_k}, there are {most} {counted} to choose from")


def _check(top_k: int | None, threshold: float | None, reverse: object, num_candidates: int | None) -> None:
    if (top_k is None) == (threshold is None):
        raise ConfigError("say either top_k (the best of each) or threshold (all pairs above it)")
    if top_k is None and (reverse or num_candidates):
        raise ConfigError("a reverse output and candidates go with top_k, not with a threshold")
    if reverse and num_candidates:
        raise ConfigError("candidates are of the left texts; for a reverse output leave num_candidates out")
    if top_k is not None and num_candidates is not None and num_candidates < top_k:
        raise ConfigError(f"{num_candidates} candidates are fewer than the {top_k} that are wanted")


def _logit(share: float) -> float:
    if not 0 <= share < 1:
        raise ConfigError(f"the threshold is {share}; scores of one label are between 0 and 1")
    return -math.inf if share == 0 else math.log(share / (1 - share))


class _Run:
    """The work of one match."""

    def __init__(
        self,
        scorer: Scorer,
        sides: Sequence[LoadedSide],
        wanted: _Wanted,
        tables: MatchTables,
        reverse: ReverseMatches | None,
    ) -> None:
        self.scorer, self.sides, self.wanted, self.tables, self.reverse = scorer, sides, wanted, tables, reverse
        # As many texts are enough for so many items, and there may be fewer.
        self.top_k = None if wanted.top_k is None else min(wanted.top_k, len(sides[1]))
        self._found_by: CandidateIndex | None = None

    def write(self, writer: PartWriter, step: int, show_progress_bar: bool | None) -> None:
        """Scores what is not in a part yet, `step` left texts at a time, and joins the parts."""
        left = self.sides[0]
        if self.reverse is not None:
            self.reverse.take_up()
        starts = range(writer.parts * step, len(left), step)
        quiet = None if show_progress_bar is None else not show_progress_bar
        done = min(len(left), starts.start)
        with tqdm(total=len(left), desc="Match", unit="text", initial=done, disable=quiet) as bar:
            for start in starts:
                block = left.part(start, start + step)
                writer.append(self.tables.of_block(self._find(block, start), start, len(block)))
                bar.update(len(block))
        if self.reverse is not None:
            self.reverse.finish(self.tables)
        writer.finish(self.tables.order)

    def _find(self, block: LoadedSide, start: int) -> BestMatches | Matches:
        if self.wanted.num_candidates is not None:
            return self._candidates(block, np.arange(start, start + len(block)))
        if self.reverse is None or self.top_k is None:
            limit = self.wanted.limit(self.scorer.model.task.num_labels == 1)
            found = self.scorer.all_pairs(
                block, self.sides[1], top_k=self.top_k, threshold=limit, **self.wanted.ranking
            )
            assert not isinstance(found, tuple)
            return found
        # A last, small block has fewer texts than each right text wants of the whole side.
        of_right = min(self.reverse.ranked.shape[1], len(block))
        both = self.scorer.all_pairs(
            block, self.sides[1], top_k=self.top_k, reverse_top_k=of_right, **self.wanted.ranking
        )
        assert isinstance(both, tuple)
        self.reverse.add(both[1], start)
        return both[0]

    def _candidates(self, block: LoadedSide, rows: np.ndarray) -> BestMatches:
        assert self.top_k is not None and self.wanted.num_candidates is not None
        vectors = self.wanted.vectors
        if self._found_by is None:
            kind = self.wanted.index
            index_of = self.scorer.index_of
            self._found_by = index_of(self.sides[1], kind) if vectors is None else CandidateIndex(vectors[1], kind)
        return self.scorer.candidates(
            block,
            self.sides[1],
            top_k=self.top_k,
            num_candidates=self.wanted.num_candidates,
            index=self._found_by,
            vectors=None if vectors is None else vectors[0][rows],
            **self.wanted.ranking,
        )

    def recall(self) -> tuple[float | None, int]:
        """The mean share of the exact best texts that candidates found, and of how many left texts; where they were used."""
        if self.wanted.num_candidates is None:
            return None, 0
        left, right = self.sides
        count = max(1, min(len(left), 1000, _RECALL_PAIRS // len(right)))
        rows = np.sort(np.random.default_rng(0).permutation(len(left))[:count])
        some = left.read(rows)
        exact = self.scorer.all_pairs(some, right, top_k=self.top_k, **self.wanted.ranking)
        assert isinstance(exact, BestMatches)
        return recall(self._candidates(self.scorer.load(some, 0), rows), exact), count
