"""Bulk match: for each item of one side its best of the other, or all pairs above a threshold; to a file, resumable.

The kernels compare distinct texts; `match_output` makes items of them.

Shape legend: n, m texts of the two sides; d width of vectors; b texts of a block of the first side; k best.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from tqdm.auto import tqdm

from distilmatch.arguments import whole_number
from distilmatch.engine.candidates import CandidateIndex
from distilmatch.engine.matches import BestMatches, Matches, Recall, recall, sampled_texts
from distilmatch.engine.question import Asked, Question, as_question
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.engine.sources import Representations
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.estimates import disk_bytes
from distilmatch.files import check_outputs
from distilmatch.fingerprint import fingerprint, fingerprint_tensors
from distilmatch.jobs.folded_sides import check_room, folder_facts, load_sides
from distilmatch.jobs.folder_texts import check_texts
from distilmatch.jobs.match_exact import FOUND, ExactMatch
from distilmatch.jobs.match_output import MatchedSide, MatchTables, ReverseMatches
from distilmatch.jobs.outputs import job_of, output_file
from distilmatch.jobs.parts import PartWriter, parts_folder
from distilmatch.jobs.rehearsal import REHEARSED_SECONDS, Rehearsal
from distilmatch.store.folder import RepresentationFolder, opened_folder

_PAIRS_A_PART = 2**28
_MOST_ROWS_A_PART = 65_536
_FEWEST_ROWS_A_PART = 64
_INDEXED = 20_000


@dataclass(frozen=True, kw_only=True)
class MatchReport:
    """What a match did.

    Attributes:
        rows: of the output.
        pairs: that were scored, those of an earlier, stopped run of the same job included.
        recall: of candidates: the mean share of the exact best that they found, over a sample; None without.
        recall_interval: in which that share lies with a probability of 95 %, by the sample.
        sampled: texts of that sample.
        rehearsal: of a dry run, what the match will take.
        folded: how often each text of the two sides was folded, in the mean, by this call.
        files_read: bytes of folded texts that it read from files; 0 where all of them fit in memory.
        skipped: pairs that this call gave no exact score, since a bound of it was below what was asked for; the output is
            what it would be with all scores.
    """

    rows: int
    pairs: int
    recall: float | None = None
    recall_interval: tuple[float, float] | None = None
    sampled: int = 0
    rehearsal: Rehearsal | None = None
    folded: tuple[float, float] = (0.0, 0.0)
    files_read: int = 0
    skipped: int = 0


def match_folders(
    scorer: Scorer,
    left: RepresentationFolder | str | Path,
    right: RepresentationFolder | str | Path,
    output: str | Path,
    question: Question | None = None,
    *,
    reverse_output: str | Path | None = None,
    vectors: tuple[np.ndarray, np.ndarray] | None = None,
    distinct_texts: bool = False,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    rows_a_part: int | None = None,
    keep_folded: str | Path | None = None,
    resume: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    show_progress_bar: bool | None = None,
    **asked: Unpack[Asked],
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
            what is ranked; with `calibrated` of the question it is the calibrated probability. Equal logits are ranked by the
            row.
        question: what is asked: `top_k` items of the right side for each of the left, or all pairs above a `threshold`, which
            is a score as the output has it; or, in its place, its attributes as keyword arguments (`top_k=10`).
            With `num_candidates` the share of the exact best that these find is measured on a sample of the left side.
        reverse_output: also the `top_k` of the left side for each of the right, in this file.
        vectors: (n, d) and (m, d) fp32 by which candidates are near instead of pooled vectors, such as a sentence encoder's
            (`folder_vectors`).
        distinct_texts: match and count texts: of the items of one text the first alone.
        texts: those of both folders, row by row (`folder_texts`), which the output then shows as `SIDE_text`.
        rows_a_part: left texts a part file; as many as there is memory for, of candidates as are done in some minutes. A killed
            job goes on where it was 20 seconds before, of candidates after the last whole part.
        keep_folded: a folder in which folded texts stay, for other jobs of the same model and sides. Without it those that do
            not fit in memory are kept beside the output until it is done.
        dry_run: check everything, and match some left texts to tell how long all will take; nothing is written.
        resume, overwrite, show_progress_bar: as in `score_table`.

    Raises:
        ConfigError, ModelError, DataError: as `Scorer.best` and `Question`, or an output that is one of the folders or the other
            output; before anything is written.
        CacheError: the output holds something else, is being written by another process or cannot be written; or a folder is
            damaged.
    """
    folders = opened_folder(left), opened_folder(right)
    question = as_question(question, asked)
    if reverse_output is not None and not question.reverse:
        question = question.replaced(reverse=True)
    if question.reverse and reverse_output is None:
        raise ConfigError("the question has a reverse direction: say where it goes (reverse_output)")
    _check_question(question, scorer, folders, vectors)
    kept = {} if keep_folded is None else {"the folder of folded texts": keep_folded}
    place, reverse_place = check_match(output, reverse_output, folders, more_outputs=kept)
    if rows_a_part is not None:
        whole_number("rows_a_part", rows_a_part)
    tables = _tables(scorer, folders, question, distinct_texts, texts)
    _check_top_k(tables, question, "texts" if distinct_texts else "items")
    sides = load_sides(scorer, folders, place, keep_folded)
    pairs_a_text = min(question.num_candidates or len(sides[1]), len(sides[1]))
    job = fingerprint(
        *_facts(scorer, folders, question, vectors),
        [question.reverse, distinct_texts, texts is not None, tables.schema.names],
    )
    pairs = len(sides[0]) * pairs_a_text
    if reverse_place is not None and reverse_place.exists() and not overwrite and job_of(reverse_place) != job.encode():
        raise CacheError(f"{reverse_place} exists and holds something else; name another file, or overwrite it")
    writer_of = partial(
        PartWriter, place, tables.schema, job, resume=resume, overwrite=overwrite,
        part_schema=FOUND if question.top_k is None else None,
    )  # fmt: skip
    if dry_run:
        looked = writer_of(looks_only=True)
        run = _Run(scorer, sides, question, vectors, tables, None, looked)
        done_texts = len(sides[0]) if looked.finished_rows is not None else run.texts_done()
        rehearsal = _rehearse(scorer, sides, question, tables, (place, reverse_place), done_texts)
        return MatchReport(rows=0, pairs=pairs, rehearsal=rehearsal)
    with writer_of() as writer:
        reverse = None
        if reverse_place is not None and question.top_k is not None:
            reverse = ReverseMatches(writer, len(sides[1]), min(question.top_k, len(sides[0])), reverse_place, job)
        # Both outputs must be this job's: where one was taken away since, both are made again.
        done = writer.finished_rows is not None and (reverse is None or job_of(reverse.path) == job.encode())
        run = _Run(scorer, sides, question, vectors, tables, reverse, writer)
        if not done:
            check_room(sides)
            run.write(rows_a_part, show_progress_bar)
        found = None if done else run.recall()
    assert writer.finished_rows is not None
    return MatchReport(
        rows=writer.finished_rows,
        pairs=pairs,
        recall=None if found is None else found.share,
        recall_interval=None if found is None else found.interval,
        sampled=0 if found is None else found.texts,
        folded=(sides[0].folded_texts / len(sides[0]), sides[1].folded_texts / len(sides[1])),
        files_read=sum(side.folder.read_bytes for side in sides if side.folder is not None),
        skipped=run.skipped(),
    )


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


def _check_question(
    question: Question,
    scorer: Scorer,
    folders: Sequence[RepresentationFolder],
    vectors: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    if vectors is not None:
        if question.num_candidates is None:
            raise ConfigError("vectors find candidates: say how many (num_candidates)")
        held, texts = [len(side_vectors) for side_vectors in vectors], [len(folder) for folder in folders]
        if held != texts:
            raise ConfigError(f"{held[0]:,} and {held[1]:,} vectors for {texts[0]:,} and {texts[1]:,} texts: one a row")
    student, task = scorer.model.student, scorer.model.task
    if student.sides != 2:
        raise ModelError(f"matching is between two sides, this model has {student.sides}; score its tuples instead")
    question.ranking(task)
    question.limit(task, lambda: scorer.model.decision)


def _facts(
    scorer: Scorer,
    folders: Sequence[RepresentationFolder],
    question: Question,
    vectors: tuple[np.ndarray, np.ndarray] | None,
) -> list[Any]:
    """What the job's fingerprint is of."""
    model = scorer.model
    held = [fact for folder in folders for fact in folder_facts(folder)]
    asked, ranked = question.facts()
    facts = [
        [fingerprint_tensors(model.state_dict()), model.task.to_dict(), model.student.to_dict()],
        held,
        asked,
        [*ranked, scorer.kernel.name],
    ]
    reading = question.reading(model.task, lambda: model.decision)
    if reading is not None:
        facts.append(reading.facts())
    if vectors is not None:
        tensors = ((str(j), torch.from_numpy(side_vectors)) for j, side_vectors in enumerate(vectors))
        facts.append([fingerprint_tensors(tensors)])
    return facts


def _tables(
    scorer: Scorer,
    folders: Sequence[RepresentationFolder],
    question: Question,
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
    ranking = question.ranking(task)
    reading = question.reading(task, lambda: scorer.model.decision)
    calibration = None if reading is None else reading.calibration
    return MatchTables(matched[0], matched[1], question.top_k, ranking, task.num_labels == 1, calibration)


def _check_top_k(tables: MatchTables, question: Question, counted: str) -> None:
    left, right = len(tables.left.items), len(tables.right.items)
    most = min(left, right) if question.reverse else right
    if question.top_k is not None and question.top_k > most:
        raise ConfigError(f"top_k is {question.top_k}, there are {most} {counted} to choose from")


def _rehearse(
    scorer: Scorer,
    sides: Sequence[LoadedSide],
    question: Question,
    tables: MatchTables,
    places: tuple[Path, Path | None],
    done: int,
) -> Rehearsal:
    """Matches some left texts, in a folder that is deleted again.

    Args:
        done: left texts that a stopped run has matched already.
    """
    left, right = sides
    # A part of a large side tells what all of it takes to read, to fold and to look up; a part has no folder to write to.
    some = max(_INDEXED, 2 * (question.num_candidates or question.top_k or 0))
    right = right.part(0, len(right) if question.reverse else some)
    share = len(sides[1]) / len(right)
    with tempfile.TemporaryDirectory() as folder:
        named = [None if place is None else Path(folder) / place.name for place in places]
        with PartWriter(str(named[0]), tables.schema, "rehearsal") as writer:
            reverse = None
            if named[1] is not None and question.top_k is not None:
                reverse = ReverseMatches(writer, len(right), min(question.top_k, len(left)), named[1], "rehearsal")
                reverse.take_up()
            run = _Run(scorer, (left, right), question, None, tables, reverse, writer)
            times = run.rehearse()
        sizes = [0 if path is None else disk_bytes(path) for path in named]
    exact = 0.0
    if question.num_candidates is not None:
        exact = run.exact_seconds() * share * sampled_texts(len(left), len(sides[1]))
    todo = len(left) - done
    more_rows = share if question.top_k is None else 1.0  # of a left text, as many times those of the rehearsal
    folded = sum(len(side) * side.kept_bytes for side in sides if side.folder is not None)
    return Rehearsal(
        facts={"left_texts": len(left), "right_texts": len(sides[1]), "left_texts_to_match": todo},
        seconds={
            "load": times.first * share if todo else 0.0,
            "match": todo * times.a_text * (share if question.num_candidates is None else 1.0),
            "join": len(left) * times.joined * more_rows if todo else 0.0,
            **({"recall": exact if todo else 0.0} if question.num_candidates is not None else {}),
        },
        disk_bytes=round(sizes[0] / times.texts * len(left) * more_rows + sizes[1]) + folded,
    )


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Seconds of a rehearsal: until the right side is loaded, and of each left text (matched, joined), by `texts` of them."""

    first: float
    a_text: float
    joined: float
    texts: int


class _Run:
    """The work of one match."""

    def __init__(
        self,
        scorer: Scorer,
        sides: Sequence[LoadedSide],
        question: Question,
        vectors: tuple[np.ndarray, np.ndarray] | None,
        tables: MatchTables,
        reverse: ReverseMatches | None,
        writer: PartWriter,
    ) -> None:
        self.scorer, self.sides, self.vectors, self.tables, self.reverse = scorer, sides, vectors, tables, reverse
        # As many texts are enough for so many items, and there may be fewer.
        k = question.top_k
        self.question = question if k is None else question.replaced(top_k=min(k, len(sides[1])))
        self.writer = writer
        self._found_by: CandidateIndex | None = None
        self._skipped_before = scorer.kernel.skipped_pairs

    def skipped(self) -> int:
        """Pairs that it gave no exact score."""
        return self.scorer.kernel.skipped_pairs - self._skipped_before

    @property
    def _exact(self) -> ExactMatch:
        return ExactMatch(self.scorer, self.sides, self.question, self.tables, self.reverse, self.writer)

    def texts_done(self) -> int:
        """Left texts that an earlier run has matched, or as many as its pairs are."""
        if self.question.num_candidates is not None:
            return int(self.writer.place or 0)
        return self._exact.pairs_done() // len(self.sides[1])

    def write(self, rows_a_part: int | None, show_progress_bar: bool | None) -> None:
        """Scores what is not in a part yet, and joins the parts."""
        if self.reverse is not None:
            self.reverse.take_up()
        quiet = None if show_progress_bar is None else not show_progress_bar
        if self.question.num_candidates is not None:
            self._write_candidates(rows_a_part, quiet)
            return
        exact = self._exact
        pairs, done = len(self.sides[0]) * len(self.sides[1]), exact.pairs_done()
        with tqdm(total=pairs, desc="Match", unit="pair", unit_scale=True, initial=done, disable=quiet) as bar:
            exact.write(rows_a_part, bar.update)
        if self.reverse is not None:
            self.reverse.finish(self.tables)
        if self.question.top_k is None:
            self.writer.finish(tables=exact.above_tables())
        else:
            self.writer.finish(self.tables.order)

    def _write_candidates(self, rows_a_part: int | None, quiet: bool | None) -> None:
        left, right = self.sides
        assert self.question.num_candidates is not None
        pairs_a_text = min(self.question.num_candidates, len(right))
        step = rows_a_part or max(_FEWEST_ROWS_A_PART, min(_MOST_ROWS_A_PART, _PAIRS_A_PART // pairs_a_text))
        done = int(self.writer.place or 0)
        with tqdm(total=len(left), desc="Match", unit="text", initial=done, disable=quiet) as bar:
            for start in range(done, len(left), step):
                block = left.part(start, start + step)
                found = self.tables.of_block(self._find(block, start), start, len(block))
                self.writer.append(found, str(start + len(block)))
                bar.update(len(block))
        self.writer.finish(self.tables.order)

    def rehearse(self) -> _Times:
        """Matches as many left texts as a few seconds have room for, and joins them."""
        left = self.sides[0]
        count, began = 1, time.perf_counter()
        self._matched(0, count)
        first, took = time.perf_counter() - began, 0.0
        texts = 0
        while texts < len(left) and took < REHEARSED_SECONDS:
            count = min(len(left) - texts, 16 if texts == 0 else max(16, int(texts * REHEARSED_SECONDS / took / 2)))
            began = time.perf_counter()
            self._matched(texts, count)
            seconds = time.perf_counter() - began
            took, texts = took + seconds, texts + count
        began = time.perf_counter()
        if self.reverse is not None:
            self.reverse.finish(self.tables)
        self.writer.finish(self.tables.order)
        joined = time.perf_counter() - began
        # The last and largest block is most like a part of the job; the text of the first call is joined too.
        return _Times(first=first, a_text=seconds / count, joined=joined / (texts + 1), texts=texts + 1)

    def _matched(self, start: int, count: int) -> None:
        block = self.sides[0].part(start, start + count)
        self.writer.append(self.tables.of_block(self._find(block, start), start, len(block)))

    def exact_seconds(self) -> float:
        """How long the exact best of a left text take, by a few of them."""
        left, right = self.sides
        few = left.part(0, 16)
        question = self.question.replaced(num_candidates=None)
        self.scorer.best(few, right, question)
        started = time.perf_counter()
        self.scorer.best(few, right, question)
        return (time.perf_counter() - started) / len(few)

    def _find(self, block: LoadedSide, start: int) -> BestMatches | Matches:
        question, right = self.question, self.sides[1]
        if question.num_candidates is not None:
            return self._candidates(block, np.arange(start, start + len(block)))
        if question.top_k is None:
            return self.scorer.above(block, right, question).collect()
        if self.reverse is None:
            return self.scorer.best(block, right, question)
        # A last, small block has fewer texts than each right text wants of the whole side.
        of_right = min(self.reverse.ranked.shape[1], len(block))
        of_block, others = self.scorer.best_of_both(block, right, question, of_right)
        self.reverse.add(others, start)
        return of_block

    def _candidates(self, block: Representations | LoadedSide, rows: np.ndarray) -> BestMatches:
        question, vectors = self.question, self.vectors
        assert question.top_k is not None and question.num_candidates is not None
        ranking = question.ranking(self.scorer.model.task)
        if self._found_by is None:
            self._found_by = self._index()
        return self.scorer.candidates(
            block,
            self.sides[1],
            top_k=question.top_k,
            num_candidates=question.num_candidates,
            index=self._found_by,
            vectors=None if vectors is None else vectors[0][rows],
            by=ranking.by,
            label=None if ranking.by == "expectation" else ranking.label,
            values=ranking.values or None,
        )

    def _index(self) -> CandidateIndex:
        """The index of an earlier run of this job, or one that is built and kept with the parts."""
        place, kind = self.writer.index, self.question.index
        index = CandidateIndex.load(place, self.writer.job)
        if index is None:
            right = self.sides[1]
            index = self.scorer.index_of(right, kind) if self.vectors is None else CandidateIndex(self.vectors[1], kind)
            index.save(place, self.writer.job)
        return index

    def recall(self) -> Recall | None:
        """What candidates found of the exact best texts, on a sample; None where there were none."""
        if self.question.num_candidates is None:
            return None
        left, right = self.sides
        count = sampled_texts(len(left), len(right))
        rows = np.sort(np.random.default_rng(0).permutation(len(left))[:count])
        sample = left.read(rows)
        exact = self.scorer.best(sample, right, self.question.replaced(num_candidates=None))
        return recall(self._candidates(self.scorer.load(sample, 0), rows), exact)
