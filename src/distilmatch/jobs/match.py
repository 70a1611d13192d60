"""Bulk match: for each item of one side its best of the other, or all pairs above a threshold; to a file, resumable.

The kernels compare distinct texts; `matching.output` makes items of them.

Shape legend: n, m texts of the two sides; d width of vectors; b texts of a block of the first side; k best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import torch

from distilmatch.arguments import whole_number
from distilmatch.engine.matches import Recall
from distilmatch.engine.question import Asked, Question, as_question
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.files import check_outputs, checksum
from distilmatch.fingerprint import fingerprint, fingerprint_tensors
from distilmatch.jobs.folded_sides import check_room, folder_facts, load_sides
from distilmatch.jobs.folder_texts import check_texts
from distilmatch.jobs.matching.clusters import ClusterOutput, ClusterReport
from distilmatch.jobs.matching.exact import FOUND
from distilmatch.jobs.matching.groups import Groups
from distilmatch.jobs.matching.output import MatchedSide, MatchTables
from distilmatch.jobs.matching.rehearsal import rehearse
from distilmatch.jobs.matching.reverse import ReverseMatches
from distilmatch.jobs.matching.run import Matching, MatchRun
from distilmatch.jobs.matching.strips import StripJob
from distilmatch.jobs.matching.update import Previous, matched_facts
from distilmatch.jobs.outputs import job_of, output_file
from distilmatch.jobs.parts import PartWriter, parts_folder
from distilmatch.jobs.rehearsal import Rehearsal
from distilmatch.jobs.running.base import Runner
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.opened import opened_folder


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
        groups: in which items were compared; None where all were.
        without_group: left and right items that were in none.
        clusters: of a table that was compared with itself, where they were asked for.
        read_over_least: of several workers: bytes of texts that they folded, by the least that so many workers of that memory
            need (`engine.grid`); None without.
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
    groups: int | None = None
    without_group: tuple[int, int] = (0, 0)
    clusters: ClusterReport | None = None
    read_over_least: float | None = None


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
    same_table: bool = False,
    groups: Groups | None = None,
    one_to_one: bool = False,
    clusters_output: str | Path | None = None,
    previous: str | Path | None = None,
    rows_a_part: int | None = None,
    keep_folded: str | Path | None = None,
    runner: Runner | None = None,
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
        same_table: both folders are of one table, encoded once for each side. No item is compared with itself; of the pairs
            above a threshold each is there once, with the text that stands first in the table on the left.
        groups: compare items of one group alone (`Groups.of` makes them of keys).
        one_to_one: with a threshold: pairs are taken by falling score, and one is kept where neither of its items has a partner
            yet.
        clusters_output: with `same_table` and a threshold: all items of the table and the clusters that the pairs of the output
            join them to, in this file: `row`, `id`, `cluster`, `size`. A chain of pairs is one cluster.
        previous: a Parquet output of an earlier match of the same student and `top_k`. A side is the one of then, or a later
            version of the same store. Only pairs with a new or changed item are scored, and those of lists that lost one.
        rows_a_part: left texts a part file; as many as there is memory for, of candidates as are done in some minutes. A killed
            job goes on where it was 20 seconds before, of candidates after the last whole part.
        keep_folded: a folder in which folded texts stay, for other jobs of the same model and sides. Without it those that do
            not fit in memory are kept beside the output until it is done.
        runner: workers that score, processes of this machine (`jobs.running.local`) or of a Ray cluster (`jobs.running.ray`);
            each takes the scorer's memory. For the `top_k` of each left item of all right ones. The output has the same rows; a
            kernel of PyTorch's may give other last bits, since it is shown other blocks. Killed, it goes on after the last
            whole strip, on whatever runs it then.
        dry_run: check everything, and match some left texts to tell how long all will take; nothing is written.
        resume, overwrite, show_progress_bar: as in `score_table`.

    Raises:
        ConfigError, ModelError, DataError: as `Scorer.best` and `Question`, or an output that is one of the folders or the other
            output; before anything is written.
        CacheError: the output holds something else, is being written by another process or cannot be written; or a folder is
            damaged.
    """
    folders = opened_folder(left), opened_folder(right)
    question = _asked(question, asked, reverse_output)
    check_spread(runner, question, groups is not None, previous is not None)
    _check_question(question, scorer, folders, vectors)
    check_comparison(question, same_table, groups is not None, one_to_one, clusters_output is not None)
    kept = {} if keep_folded is None else {"the folder of folded texts": keep_folded}
    clusters_place = None if clusters_output is None else output_file(clusters_output, "the file of clusters")
    more = {**kept, **({} if clusters_place is None else {"the file of clusters": clusters_place})}
    place, reverse_place = check_match(output, reverse_output, folders, more_outputs=more)
    if rows_a_part is not None:
        whole_number("rows_a_part", rows_a_part)
    tables = _tables(scorer, folders, question, distinct_texts, texts, same_table)
    _check_top_k(tables, question, "texts" if distinct_texts else "items")
    if groups is not None:
        groups.check(len(tables.left.items), len(tables.right.items))
    sides = load_sides(scorer, folders, place, keep_folded, by_workers=runner is not None)
    facts = _facts(scorer, question, vectors)
    asked_facts = [*facts, [same_table, distinct_texts]]
    narrowed = same_table or groups is not None or distinct_texts
    matching = Matching(
        previous=_earlier(previous, question, scorer, narrowed, asked_facts, folders),
        scorer=scorer,
        sides=sides,
        question=question,
        tables=tables,
        vectors=vectors,
        groups=groups,
        one_to_one=one_to_one,
        spread=None if runner is None else (runner, _strip_job(scorer, folders, question, sides)),
    )
    beside: list[Any] = [question.reverse, distinct_texts, texts is not None, tables.schema.names]
    compared = [same_table, one_to_one, clusters_place is not None, None if groups is None else groups.facts()]
    compared += [] if previous is None else [checksum(previous)]
    # What most jobs do not ask for is not in their fingerprint, so that older ones are known again.
    beside += [compared] if any(compared) else []
    held = [fact for folder in folders for fact in folder_facts(folder)]
    job = fingerprint(facts[0], held, *facts[1:], beside)
    further = [path for path in (reverse_place, clusters_place) if path is not None]
    _check_further(further, job, overwrite)
    schema = tables.schema.with_metadata(matched_facts(asked_facts, folders))
    writer_of = partial(
        PartWriter, place, schema, job, resume=resume, overwrite=overwrite,
        part_schema=FOUND if question.top_k is None else None,
    )  # fmt: skip
    if dry_run:
        return _rehearsed(matching, writer_of(looks_only=True), (place, reverse_place))
    with writer_of() as writer:
        reverse, clusters = None, None
        if reverse_place is not None and question.top_k is not None:
            reverse = ReverseMatches(writer, len(sides[1]), min(question.top_k, len(sides[0])), reverse_place, job)
        if clusters_place is not None:
            clusters = ClusterOutput(clusters_place, tables.left, job)
        run = MatchRun(matching, writer, reverse, clusters)
        # All outputs must be this job's: where one was taken away since, all are made again.
        done = writer.finished_rows is not None and all(job_of(path) == job.encode() for path in further)
        if not done:
            check_room(sides)
            run.write(rows_a_part, show_progress_bar)
        return _report(run, writer, matching, None if done else run.recall())


def _earlier(
    path: str | Path | None,
    question: Question,
    scorer: Scorer,
    is_narrowed: bool,
    asked_facts: Sequence[Any],
    folders: Sequence[RepresentationFolder],
) -> Previous | None:
    if path is None:
        return None
    check_update(question, scorer, is_narrowed)
    return Previous.of(path, asked_facts, folders)


def _asked(question: Question | None, asked: Asked, reverse_output: str | Path | None) -> Question:
    question = as_question(question, asked)
    if reverse_output is not None and not question.reverse:
        question = question.replaced(reverse=True)
    if question.reverse and reverse_output is None:
        raise ConfigError("the question has a reverse direction: say where it goes (reverse_output)")
    return question


def _check_further(further: Sequence[Path], job: str, overwrite: bool) -> None:
    for path in further:
        if path.exists() and not overwrite and job_of(path) != job.encode():
            raise CacheError(f"{path} exists and holds something else; name another file, or overwrite it")


def _rehearsed(matching: Matching, looked: PartWriter, places: tuple[Path, Path | None]) -> MatchReport:
    run = MatchRun(matching, looked)
    done_texts = len(matching.sides[0]) if looked.finished_rows is not None else run.texts_done()
    return MatchReport(rows=0, pairs=run.pairs, rehearsal=rehearse(matching, places, done_texts))


def _report(run: MatchRun, writer: PartWriter, matching: Matching, found: Recall | None) -> MatchReport:
    assert writer.finished_rows is not None
    sides, groups = matching.sides, matching.groups
    return MatchReport(
        rows=writer.finished_rows,
        pairs=run.pairs,
        recall=None if found is None else found.share,
        recall_interval=None if found is None else found.interval,
        sampled=0 if found is None else found.texts,
        folded=run.folded(),
        files_read=sum(side.folder.read_bytes for side in sides if side.folder is not None),
        skipped=run.skipped(),
        groups=None if groups is None else len(groups),
        without_group=(0, 0) if groups is None else groups.without,
        clusters=run.clustered,
        read_over_least=run.read_over_least(),
    )


def _strip_job(
    scorer: Scorer,
    folders: tuple[RepresentationFolder, RepresentationFolder],
    question: Question,
    sides: Sequence[LoadedSide],
) -> StripJob:
    kept = [None if side.folder is None else (str(side.folder.path.absolute()), side.folder.made_of) for side in sides]
    return StripJob.of(scorer, folders, question, (kept[0], kept[1]))


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


def check_comparison(
    question: Question, same_table: bool, has_groups: bool, one_to_one: bool, has_clusters: bool
) -> None:
    """Refuses what does not go together, before anything is read.

    Raises:
        ConfigError: what, and what to do.
    """
    if question.reverse and (same_table or has_groups):
        other = "one table's items are on both sides" if same_table else "groups have one direction"
        raise ConfigError(f"{other}: leave the reverse output out")
    if question.num_candidates is not None and has_groups:
        raise ConfigError("candidates are looked for among all right texts: leave them out, groups are small")
    if one_to_one and question.threshold is None:
        raise ConfigError("one to one is of the pairs above a threshold: give a threshold instead of top_k")
    if has_clusters and (question.threshold is None or not same_table):
        raise ConfigError(
            "clusters are of one table, of its pairs above a threshold: say that both sides are the same table"
        )


def check_spread(runner: Runner | None, question: Question, has_groups: bool, has_previous: bool) -> None:
    """Refuses, before anything is read, what several workers do not do.

    Raises:
        ConfigError: what, and what to do.
    """
    narrowed = question.reverse or question.num_candidates is not None or has_groups or has_previous
    if runner is not None and (question.top_k is None or narrowed):
        raise ConfigError(
            "several workers find the best of each left item among all right ones (top_k): without a threshold, the reverse "
            "direction, candidates, groups or an earlier match; leave these out, or match in one process"
        )


def check_update(question: Question, scorer: Scorer, is_narrowed: bool) -> None:
    """Refuses an earlier output to go on from, where there is no way to.

    Raises:
        ConfigError: what does not go together.
    """
    if question.top_k is None or question.reverse or question.num_candidates is not None or is_narrowed:
        raise ConfigError(
            "an earlier match is gone on from for the best of each item alone (top_k): without a threshold, the reverse "
            "direction, candidates, groups, one table on both sides, or distinct texts"
        )
    if scorer.model.task.num_labels > 1 or question.calibrated:
        raise ConfigError("an earlier match is gone on from by its logits, of models of one label, uncalibrated")


def _check_same(folders: Sequence[RepresentationFolder]) -> None:
    left, right = folders
    items = left.item_table, right.item_table
    same = len(left) == len(right) and np.array_equal(items[0].texts, items[1].texts)
    ids = [side.ids.cast(pa.large_string()) for side in items]
    same = same and np.array_equal(items[0].rows, items[1].rows) and ids[0].equals(ids[1])
    if not (same and left.keys == right.keys):
        raise ConfigError(
            f"{left.path} and {right.path} are not of the same table: encode one table twice, once for each side"
        )


def _facts(scorer: Scorer, question: Question, vectors: tuple[np.ndarray, np.ndarray] | None) -> list[list[Any]]:
    """What a match is of beside its sides, for fingerprints: the model first."""
    model = scorer.model
    asked, ranked = question.facts()
    facts = [
        [fingerprint_tensors(model.state_dict()), model.task.to_dict(), model.student.to_dict()],
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
    same_table: bool,
) -> MatchTables:
    if same_table:
        _check_same(folders)
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
    one_label = task.num_labels == 1
    return MatchTables(matched[0], matched[1], question.top_k, ranking, one_label, calibration, same_table=same_table)


def _check_top_k(tables: MatchTables, question: Question, counted: str) -> None:
    left, right = len(tables.left.items), len(tables.right.items)
    most = min(left, right) if question.reverse else right - tables.same_table
    if question.top_k is not None and question.top_k > most:
        other = "other " if tables.same_table else ""
        raise ConfigError(f"top_k is {question.top_k}, there are {most} {other}{counted} to choose from")
