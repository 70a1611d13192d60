"""The whole ladder: an embedding student, a pair student that begins with it, and the matches of both."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilmatch.config.ladder import LadderRecipe, MatchConfig, MatchSideConfig
from distilmatch.config.tables import TableConfig
from distilmatch.data.column_rows import iter_columns, one_text
from distilmatch.engine.question import Question
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError, MissingExtraError
from distilmatch.files import check_outputs
from distilmatch.jobs.encode import counted_items, encode_table
from distilmatch.jobs.match import MatchReport, match_folders
from distilmatch.jobs.vectors import folder_vectors
from distilmatch.models import DiPair
from distilmatch.models.sentence_card import save_student
from distilmatch.runtime import pick_device
from distilmatch.store.folder import RepresentationFolder
from distilmatch.training.embeddings.distil import (
    EmbeddingTables,
    check_embedding_recipe,
    distil_embeddings,
    new_student,
)
from distilmatch.training.pairs.distil import PairTables, check_pair_recipe, distil_pairs
from distilmatch.training.run_folder import check_folder

logger = logging.getLogger(__name__)

MATCHES = "matches.parquet"


@dataclass(frozen=True, kw_only=True)
class LadderReport:
    """What a ladder left.

    Attributes:
        embedding_student, pair_student: folders.
        matches: Parquet file, with `report` of the match; None without one.
    """

    embedding_student: Path
    pair_student: Path
    matches: Path | None = None
    report: MatchReport | None = None


def distil_ladder(recipe: LadderRecipe, *, show_progress_bar: bool | None = None) -> LadderReport:
    """Runs every step of the recipe; those that are done are not repeated, a stopped one goes on where it was.

    Raises:
        ConfigError, DataError, ModelError, CacheError: see `distil_embeddings`, `distil_pairs`, `encode_table` and
            `match_folders`.
    """
    check_ladder(recipe)
    root = Path(recipe.output)
    logger.info("ladder 1: the embedding student")
    distil_embeddings(recipe.embedding)
    logger.info("ladder 2: the pair student, from the embedding student's layers")
    model = distil_pairs(recipe.pair)
    report = LadderReport(embedding_student=root / "embedding" / "student", pair_student=root / "pair" / "student")
    if recipe.match is None:
        return report
    logger.info("ladder 3: representations and matches")
    folders = _encode(model, recipe, recipe.match, show_progress_bar)
    match_report = _match(model, recipe, recipe.match, folders, show_progress_bar)
    return LadderReport(
        embedding_student=report.embedding_student,
        pair_student=report.pair_student,
        matches=root / MATCHES,
        report=match_report,
    )


@dataclass(frozen=True, kw_only=True)
class LadderTables:
    """What `check_ladder` has read for each student."""

    embedding: EmbeddingTables
    pair: PairTables


def check_ladder(recipe: LadderRecipe) -> LadderTables:
    """Looks at all that can be refused in any of the steps, before the first one; nothing is written.

    Raises:
        ConfigError, DataError, ModelError: see `check_embedding_recipe` and `check_pair_recipe`; tables to be matched that
            cannot be read, or with fewer texts to choose from than `match.top_k`.
    """
    if recipe.match is not None:
        _check_match(recipe, recipe.match)
    embedding = check_embedding_recipe(recipe.embedding)
    student = Path(recipe.output) / "embedding" / "student"
    if student.is_dir():
        return LadderTables(embedding=embedding, pair=check_pair_recipe(recipe.pair))
    with tempfile.TemporaryDirectory() as folder:  # the pair student begins with the embedding student's layers
        save_student(new_student(recipe.embedding), Path(folder), {})
        return LadderTables(embedding=embedding, pair=check_pair_recipe(recipe.pair, encoder=folder))


def _check_match(recipe: LadderRecipe, match: MatchConfig) -> None:
    root = Path(recipe.output)
    check_folder(root, "`output`")
    written = {f"`output`/{name}": root / name for name in (MATCHES, "representations", "vectors")}
    check_outputs({"`output`": root}, {"`match.left`": match.left.source, "`match.right`": match.right.source})
    check_outputs(written, {"`match.left`": match.left.source, "`match.right`": match.right.source})
    match_question(match).ranking(recipe.pair.task)
    if match.candidates is not None and match.index != "flat" and importlib.util.find_spec("faiss") is None:
        raise MissingExtraError("faiss", "faiss")
    count_items(match.left)
    items = count_items(match.right)
    if match.top_k > items:
        raise ConfigError(
            f"`match.top_k` is {match.top_k}, there are {items} items to choose from in {match.right.source}"
        )


def match_question(match: MatchConfig) -> Question:
    """What a recipe's `match` asks."""
    return Question(
        top_k=match.top_k,
        num_candidates=match.candidates,
        index=match.index,
        by=match.rank_by,
        label=match.label,
        values=match.values,
    )


def count_items(side: MatchSideConfig) -> int:
    """How many items a side of a match has: its distinct ids, and its rows without one.

    Raises:
        BadRowsError, DataError: the table cannot be used.
    """
    config = TableConfig(split=side.split, delimiter=side.delimiter, quoting=side.quoting)
    columns = one_text(side.source, config, side.text_column, side.id_column, side.text_template)
    return counted_items(iter_columns(side.source, columns, config))[1]


def _encode(
    model: DiPair, recipe: LadderRecipe, match: MatchConfig, show_progress_bar: bool | None
) -> list[RepresentationFolder]:
    model.to(pick_device(recipe.device))  # type: ignore[arg-type]
    return [
        encode_table(
            model,
            table.source,
            Path(recipe.output) / "representations" / name,
            side=side,
            text_column=table.text_column,
            text_template=table.text_template,
            id_column=table.id_column,
            dtype=match.dtype,
            precision="auto",
            split=table.split,
            delimiter=table.delimiter,
            quoting=table.quoting,
            show_progress_bar=show_progress_bar,
        )
        for side, (name, table) in enumerate(zip(model.student.side_names, (match.left, match.right), strict=True))
    ]


def _match(
    model: DiPair,
    recipe: LadderRecipe,
    match: MatchConfig,
    folders: list[RepresentationFolder],
    show_progress_bar: bool | None,
) -> MatchReport:
    root = Path(recipe.output)
    vectors: tuple[np.ndarray, np.ndarray] | None = None
    if match.candidates is not None and match.candidates_by == "embedding":
        left, right = (
            folder_vectors(
                root / "embedding" / "student",
                table.source,
                folder,
                root / "vectors" / name,
                text_column=table.text_column,
                text_template=table.text_template,
                id_column=table.id_column,
                split=table.split,
                delimiter=table.delimiter,
                quoting=table.quoting,
                device=recipe.device,
                show_progress_bar=show_progress_bar,
            )
            for name, table, folder in zip(model.student.side_names, (match.left, match.right), folders, strict=True)
        )
        vectors = left, right
    return match_folders(
        Scorer(model),
        folders[0],
        folders[1],
        root / MATCHES,
        match_question(match),
        vectors=vectors,
        show_progress_bar=show_progress_bar,
    )
