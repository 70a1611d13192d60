"""The whole ladder: an embedding student, a pair student that begins with it, and the matches of both."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import MatchReport, match_folders
from distilmatch.jobs.vectors import folder_vectors
from distilmatch.ladder_config import LadderRecipe, MatchConfig
from distilmatch.models import DiPair
from distilmatch.runtime import pick_device
from distilmatch.store.folder import RepresentationFolder
from distilmatch.training.distil import distil_pairs
from distilmatch.training.embeddings import distil_embeddings

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
    found = _match(model, recipe, recipe.match, folders, show_progress_bar)
    return LadderReport(
        embedding_student=report.embedding_student,
        pair_student=report.pair_student,
        matches=root / MATCHES,
        report=found,
    )


def _encode(
    model: DiPair, recipe: LadderRecipe, match: MatchConfig, show_progress_bar: bool | None
) -> list[RepresentationFolder]:
    model.to(pick_device(recipe.device))  # type: ignore[arg-type]
    return [
        encode_table(
            model,
            one.source,
            Path(recipe.output) / "representations" / name,
            side=side,
            text_column=one.text_column,
            id_column=one.id_column,
            dtype=match.dtype,
            precision="auto",
            split=one.split,
            show_progress_bar=show_progress_bar,
        )
        for side, (name, one) in enumerate(zip(model.student.side_names, (match.left, match.right), strict=True))
    ]


def _match(
    model: DiPair,
    recipe: LadderRecipe,
    match: MatchConfig,
    folders: list[RepresentationFolder],
    show_progress_bar: bool | None,
) -> MatchReport:
    root = Path(recipe.output)
    if match.top_k > len(folders[1]):
        raise ConfigError(f"`match.top_k` is {match.top_k}, there are {len(folders[1])} texts to choose from")
    vectors: tuple[np.ndarray, np.ndarray] | None = None
    if match.candidates is not None and match.candidates_by == "embedding":
        left, right = (
            folder_vectors(
                root / "embedding" / "student",
                one.source,
                folder,
                root / "vectors" / name,
                text_column=one.text_column,
                id_column=one.id_column,
                split=one.split,
                device=recipe.device,
                show_progress_bar=show_progress_bar,
            )
            for name, one, folder in zip(model.student.side_names, (match.left, match.right), folders, strict=True)
        )
        vectors = left, right
    return match_folders(
        Scorer(model),
        folders[0],
        folders[1],
        root / MATCHES,
        top_k=match.top_k,
        num_candidates=match.candidates,
        index=match.index,
        vectors=vectors,
        by=match.rank_by,
        label=match.label,
        values=match.values,
        show_progress_bar=show_progress_bar,
    )
