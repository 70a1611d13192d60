"""What earlier commits wrote is read: a recipe, a student and its representations, in folders named by the commits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from distilmatch.config import PairRecipe
from distilmatch.engine.scorer import Scorer
from distilmatch.jobs.match import match_folders
from distilmatch.models import DiPair
from distilmatch.models.integrity import verify_student
from distilmatch.store.folder import RepresentationFolder

FOLDER = Path(__file__).parent
VERSIONS = ["289c7ff", "938814d"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recipe_means_what_it_meant(version: str) -> None:
    recipe = PairRecipe.from_yaml(FOLDER / version / "recipe.yaml")
    assert recipe.task.classes == ("no", "maybe", "yes") and recipe.table.text_columns == ("query", "document")
    objective = recipe.objective
    assert (objective.kind, objective.skew, objective.temperature) == ("skewed_kl", 0.2, 2.0)
    assert objective.gold_weight == 0.25
    first, second = recipe.all_stages
    assert (first.name, first.epochs, first.frozen_encoders) == ("stage1", 0.5, True)
    assert (second.name, second.epochs, second.learning_rate) == ("stage2", 3.0, 1e-3)
    assert recipe.student.kept_tokens == (2, 3) and recipe.student.side_names == ("query", "document")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_student_and_its_representations_score_as_they_did(version: str, tmp_path: Path) -> None:
    expected = json.loads((FOLDER / version / "expected.json").read_text())
    pairs, logits = [tuple(pair) for pair in expected["pairs"]], np.array(expected["logits"])
    assert verify_student(FOLDER / version / "student") == []
    student = DiPair.from_pretrained(FOLDER / version / "student").eval()
    np.testing.assert_allclose(student.logits(pairs), logits, atol=2e-5)
    folders = [RepresentationFolder.open(FOLDER / version / name) for name in ("query", "document")]
    scorer = Scorer(student, kernel="torch")
    rows = np.stack(
        [folder.row_of_text(texts) for folder, texts in zip(folders, zip(*pairs, strict=True), strict=True)], 1
    )
    assert rows.min() == 0
    np.testing.assert_allclose(scorer.score(*folders, rows=rows), logits, atol=2e-5)
    report = match_folders(scorer, *folders, tmp_path / "best.parquet", top_k=2, label="yes")
    best = pq.read_table(tmp_path / "best.parquet")
    assert report.rows == 4 and best["document_id"][0].as_py() == f"d{int(logits[:3, 2].argmax())}"
