"""Bulk match: for each text of one side its best of the other, or all pairs above a threshold; Parquet, resumable.

Shape legend: n, m texts of the two sides; b texts of a block of the first side; k best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from distilmatch.engine.candidates import CandidateIndex, IndexKind
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.scorer import BestMatches, Matches, Scorer, recall
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.fingerprint import fingerprint, fingerprint_tensors
from distilmatch.jobs.parts import JOB, PartWriter, job_of
from distilmatch.store.folder import RepresentationFolder

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
    left: RepresentationFolder,
    right: RepresentationFolder,
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
    rows_a_part: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    show_progress_bar: bool | None = None,
) -> MatchReport:
    """Matches two folders of representations; the encoders are not used.

    Killed and called again in the same way, it goes on after the last whole part.

    Args:
        scorer: the model and its kernel.
        output: Parquet, by rows of the first side: `SIDE_row` and, where the folder has ids, `SIDE_id` of both, `rank`
            from 1 (with `top_k`), and `score`: with one label the sigmoid of the logit, as `score` gives it, with
            several what is ranked.
        top_k: how many of the right side for each of the left; or
        threshold: all pairs whose score, as the output has it, is above it.
        reverse_output: also the `top_k` of the left side for each of the right, in this file.
        num_candidates: score only so many nearest texts by their pooled vectors (`index`), not all; the share of the
            exact best that this finds is measured on a sample of the left side.
        vectors: (n, d) and (m, d) fp32 by which they are near instead, such as a sentence encoder's (`folder_vectors`).
        by, label, values: what is ranked where the model has several labels, see `Ranking.of`; the logit by default.
        rows_a_part: left texts a part file, the step in which a killed job goes on; by the size of the right side.
        dry_run: check everything and count; nothing is scored or written.
        resume, overwrite, show_progress_bar: as in `score_table`.

    Raises:
        ConfigError, ModelError, DataError: as `Scorer.all_pairs`; before anything is written.
        CacheError: the output holds something else, or is being written by another process.
    """
    _check(top_k, threshold, reverse_output, num_candidates)
    if vectors is not None:
        if num_candidates is None:
            raise ConfigError("vectors find candidates: say how many (num_candidates)")
        if len(vectors[0]) != len(left) or len(vectors[1]) != len(right):
            raise ConfigError(
                f"{len(vectors[0]):,} and {len(vectors[1]):,} vectors for {len(left):,} and {len(right):,} texts: one a row"
            )
    model = scorer.model
    if model.student.sides != 2:
        raise ModelError(
            f"matching is between two sides, this model has {model.student.sides}; score its tuples instead"
        )
    one_label = model.task.num_labels == 1
    ranked_by = by or "logit"
    Ranking.of(model.task, ranked_by, label, values)
    limit = _logit(threshold) if one_label and threshold is not None else threshold
    sides = [scorer.load(folder, j) for j, folder in enumerate((left, right))]
    if top_k is not None:
        most = min(len(left), len(right)) if reverse_output else len(right)
        if not 1 <= top_k <= most:
            raise ConfigError(f"top_k is {top_k}, there are {most} texts to choose from")
    pairs_a_part = _PAIRS_A_PART if threshold is None else _PAIRS_A_PART_KEPT
    step = rows_a_part or max(_FEWEST_ROWS_A_PART, min(_MOST_ROWS_A_PART, pairs_a_part // len(right)))
    job = fingerprint(
        fingerprint_tensors(model.state_dict()),
        model.task.to_dict(),
        model.student.to_dict(),
        [[folder.manifest.to_dict(), fingerprint(b"".join(folder.keys).hex())] for folder in (left, right)],
        [top_k, threshold, bool(reverse_output), num_candidates, index if num_candidates else None],
        [ranked_by, str(label), list(values or ()), step, scorer.kernel.name],
        *(
            []
            if vectors is None
            else [fingerprint_tensors((str(j), torch.from_numpy(part)) for j, part in enumerate(vectors))]
        ),
    )
    pairs = len(left) * (min(num_candidates, len(right)) if num_candidates else len(right))
    if dry_run:
        return MatchReport(rows=0, pairs=pairs)
    ranking: dict[str, Any] = {"by": ranked_by, "label": label, "values": values}
    table = _Output(left, right, model.student.side_names, one_label)
    if reverse_output is not None and Path(reverse_output).exists() and not overwrite:
        owner = job_of(Path(reverse_output))
        if owner != job.encode():
            raise CacheError(f"{reverse_output} exists and holds something else; name another file, or overwrite it")
    with PartWriter(output, table.schema(top_k is not None), job, resume=resume, overwrite=overwrite) as writer:
        reverse = _Reverse(writer, len(right), top_k, Path(reverse_output), job) if reverse_output and top_k else None
        done = writer.finished_rows is not None and (reverse is None or job_of(reverse.path) == job.encode())
        found_by = None
        if num_candidates is not None and not done:
            found_by = scorer.index_of(sides[1], index) if vectors is None else CandidateIndex(vectors[1], index)
        queries = None if vectors is None else vectors[0]
        if not done:
            if reverse is not None:
                reverse.take_up()
            starts = range(writer.parts * step, len(left), step)
            quiet = None if show_progress_bar is None else not show_progress_bar
            with tqdm(
                total=len(left), desc="Match", unit="text", initial=min(len(left), starts.start), disable=quiet
            ) as bar:
                for start in starts:
                    block = sides[0].part(start, start + step)
                    if found_by is not None:
                        assert top_k is not None and num_candidates is not None
                        found: BestMatches | Matches = scorer.candidates(
                            block,
                            sides[1],
                            top_k=top_k,
                            num_candidates=num_candidates,
                            index=found_by,
                            vectors=None if queries is None else queries[start : start + len(block)],
                            **ranking,
                        )
                    else:
                        found = _exact(scorer, block, sides[1], top_k, limit, reverse, ranking)
                    writer.append(table.rows(found, start))
                    bar.update(len(block))
            if reverse is not None:
                reverse.finish(table)
            writer.finish()
    assert writer.finished_rows is not None
    if found_by is None:
        return MatchReport(rows=writer.finished_rows, pairs=pairs)
    assert top_k is not None and num_candidates is not None
    share, sampled = _recall(scorer, sides, found_by, queries, top_k, num_candidates, ranking)
    return MatchReport(rows=writer.finished_rows, pairs=pairs, recall=share, sampled=sampled)


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


def _exact(
    scorer: Scorer,
    block: LoadedSide,
    right: LoadedSide,
    top_k: int | None,
    threshold: float | None,
    reverse: _Reverse | None,
    ranking: dict[str, Any],
) -> BestMatches | Matches:
    if reverse is None or top_k is None:
        found = scorer.all_pairs(block, right, top_k=top_k, threshold=threshold, **ranking)
        assert not isinstance(found, tuple)
        return found
    # A last, small block has fewer texts than each right text wants of the whole side.
    of_right = min(top_k, len(block))
    both = scorer.all_pairs(block, right, top_k=top_k, reverse_top_k=of_right, **ranking)
    assert isinstance(both, tuple)
    reverse.add(both[1], block.first)
    return both[0]


def _recall(
    scorer: Scorer,
    sides: Sequence[LoadedSide],
    index: CandidateIndex,
    queries: np.ndarray | None,
    top_k: int,
    num_candidates: int,
    ranking: dict[str, Any],
) -> tuple[float, int]:
    left, right = sides
    count = max(1, min(len(left), 1000, _RECALL_PAIRS // len(right)))
    rows = np.sort(np.random.default_rng(0).permutation(len(left))[:count])
    some = left.read(rows)
    exact = scorer.all_pairs(some, right, top_k=top_k, **ranking)
    found = scorer.candidates(
        some,
        right,
        top_k=top_k,
        num_candidates=num_candidates,
        index=index,
        vectors=None if queries is None else queries[rows],
        **ranking,
    )
    assert isinstance(exact, BestMatches)
    return recall(found, exact), count


@dataclass(frozen=True)
class _Output:
    # What a row of the output holds.
    left: RepresentationFolder
    right: RepresentationFolder
    names: Sequence[str]
    one_label: bool

    def schema(self, ranked: bool, reverse: bool = False) -> pa.Schema:
        fields = []
        for name, folder in self._sides(reverse):
            fields.append(pa.field(f"{name}_row", pa.int64()))
            if folder.has_ids:
                fields.append(pa.field(f"{name}_id", pa.string()))
        if ranked:
            fields.append(pa.field("rank", pa.int32()))
        return pa.schema([*fields, pa.field("score", pa.float32())])

    def rows(self, found: BestMatches | Matches, first: int, reverse: bool = False) -> pa.Table:
        if isinstance(found, BestMatches):
            real = found.rows >= 0
            ranks = np.broadcast_to(np.arange(1, found.rows.shape[1] + 1, dtype=np.int32), found.rows.shape)[real]
            numbers = [np.nonzero(real)[0] + first, found.rows[real]]
            scores = found.scores[real]
        else:
            ranks = None
            numbers = [found.rows[:, 0] + first, found.rows[:, 1]]
            scores = found.scores
        if self.one_label:
            scores = torch.sigmoid(torch.from_numpy(scores)).numpy()
        columns: list[pa.Array] = []
        for (_, folder), rows in zip(self._sides(reverse), numbers, strict=True):
            columns.append(pa.array(rows, pa.int64()))
            if folder.has_ids:
                columns.append(pa.array(folder.ids, pa.string()).take(columns[-1]))
        columns += [pa.array(ranks)] if ranks is not None else []
        return pa.Table.from_arrays([*columns, pa.array(scores)], schema=self.schema(ranks is not None, reverse))

    def _sides(self, reverse: bool) -> list[tuple[str, RepresentationFolder]]:
        sides = [(self.names[0], self.left), (self.names[1], self.right)]
        return sides[::-1] if reverse else sides


class _Reverse:
    # The best left texts of each right one so far, kept beside the parts: state N holds those of the first N parts.
    def __init__(self, writer: PartWriter, rows: int, k: int, path: Path, job: str) -> None:
        self.writer, self.path, self.job = writer, path, job
        self.scores = np.full((rows, k), -np.inf, dtype=np.float32)
        self.rows = np.full((rows, k), -1, dtype=np.int64)

    def take_up(self) -> None:
        if self.writer.parts:
            state = load_file(self._state(self.writer.parts))
            self.scores, self.rows = state["scores"].numpy(), state["rows"].numpy()

    def add(self, found: BestMatches, first: int) -> None:
        scores = np.concatenate([self.scores, found.scores], 1)
        rows = np.concatenate([self.rows, np.where(found.rows < 0, -1, found.rows + first)], 1)
        # Earlier blocks have the lower rows and stand first: a stable sort keeps them before equal scores.
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.scores.shape[1]]
        self.scores, self.rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        number = self.writer.parts + 1
        state = {"scores": torch.from_numpy(self.scores), "rows": torch.from_numpy(self.rows)}
        temporary = self._state(number).with_suffix(".writing")
        save_file(state, temporary)
        temporary.replace(self._state(number))
        self._state(number - 2).unlink(missing_ok=True)

    def finish(self, table: _Output) -> None:
        found = table.rows(BestMatches(scores=self.scores, rows=self.rows), 0, reverse=True)
        found = found.replace_schema_metadata({JOB: self.job.encode()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.writing")
        pq.write_table(found, temporary)
        temporary.replace(self.path)

    def _state(self, number: int) -> Path:
        return self.writer.folder / f"reverse-{number:05d}.safetensors"
