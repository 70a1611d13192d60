"""Bulk score and match by a student's decision: named thresholds and calibrated probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.engine.question import Question
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.score import rehearse_score, score_table
from distilmatch.metrics.calibration import fit_platt
from distilmatch.metrics.decisions import decide
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import make_student

QUERIES = [f"query {'very ' * (i % 7)}{i}" for i in range(11)]
DOCUMENTS = [f"document {'long ' * (i % 5)}{i}" for i in range(13)]
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]
TABLE = TableConfig(text_columns=("query", "document"))
ROWS = [{"query": query, "document": document} for query, document in PAIRS]
TASKS = (TaskConfig(kind="binary"), TaskConfig(kind="classification", classes=("other", "same")))

Case = tuple[DiPair, list[RepresentationFolder], np.ndarray]


@pytest.fixture(scope="module", params=TASKS, ids=["binary", "two classes"])
def case(request: pytest.FixtureRequest, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A student with a decision, both sides' folders, and (143,) match logits in fp32."""
    model = make_student(tiny_encoder, request.param)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)

    def match_logits() -> np.ndarray:
        logits = model.logits(PAIRS, show_progress_bar=False).astype(np.float64)
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]

    with torch.no_grad():
        model.classifier.weight *= 2 / match_logits().std()
        model.classifier.bias[-1] -= match_logits().mean()
    scores = match_logits()
    noise = np.random.default_rng(0).normal(size=len(scores)) * 2
    gold = (scores + noise > 1).astype(float)
    decision = decide(model.task, gold, model.logits(PAIRS, show_progress_bar=False), resamples=5)
    # Isotonic regression has steps, on whose edge a rounding is seen.
    model.decision = decision.model_copy(update={"calibration": fit_platt(gold, scores)})
    where = tmp_path_factory.mktemp("decided")
    folders = [
        encode_table(model, [{"text": text} for text in texts], where / name, side=name, show_progress_bar=False)
        for name, texts in (("query", QUERIES), ("document", DOCUMENTS))
    ]
    return model, folders, scores


def scored(case: Case, output: Path, **asked: Any) -> dict[str, list[Any]]:
    model, folders, _ = case
    score_table(Scorer(model, kernel="torch"), ROWS, output, folders, table=TABLE, show_progress_bar=False, **asked)
    found: dict[str, list[Any]] = pq.read_table(output).to_pydict()
    return found


@pytest.mark.parametrize("name", ["best_f1", "precision=0.8", "recall=0.9"])
def test_score_adds_whether_a_row_matches(case: Case, tmp_path: Path, name: str) -> None:
    limit = case[0].decision.threshold(name).logit
    found = scored(case, tmp_path / "scores.parquet", threshold=name)
    assert list(found)[-1] == "match" and 0 < sum(found["match"]) < len(PAIRS)
    clear = np.abs(case[2] - limit) > 1e-3
    assert np.array(found["match"])[clear].tolist() == (case[2] > limit)[clear].tolist()


def test_score_writes_calibrated_probabilities(case: Case, tmp_path: Path) -> None:
    model, _, scores = case
    wanted = model.decision.calibration(scores)
    found = scored(case, tmp_path / "scores.parquet", calibrated=True, threshold=0.5)
    if model.task.num_labels == 2:
        assert found["label"] == ["same" if p > 0.5 else "other" for p in wanted]
        assert found["match"] == [label == "same" for label in found["label"]]
        wanted = np.maximum(wanted, 1 - wanted)
    assert found["score"] == pytest.approx(wanted.tolist(), abs=1e-3)
    plain = scored(case, tmp_path / "plain.parquet")
    assert "match" not in plain and plain["score"] != found["score"]
    with pytest.raises(CacheError, match="holds something else"):
        scored(case, tmp_path / "plain.parquet", calibrated=True)
    again = scored(case, tmp_path / "scores.parquet", calibrated=True, threshold=0.5)  # it is finished
    assert again == found


def test_csv_and_the_rehearsal(case: Case, tmp_path: Path) -> None:
    model, folders, _ = case
    output = tmp_path / "scores.csv"
    asked: dict[str, Any] = {"table": TABLE, "threshold": "best_f1"}
    assert rehearse_score(model, ROWS, output, folders, **asked).facts["rows"] == len(ROWS)
    score_table(model, ROWS, output, folders, **asked)
    assert set(pa_csv.read_csv(output)["match"].to_pylist()) == {True, False}


@pytest.mark.parametrize("asked", [{"threshold": "best_f1"}, {"threshold": 0.6, "calibrated": True}])
def test_match_keeps_what_is_above(case: Case, tmp_path: Path, asked: dict[str, Any]) -> None:
    model, folders, scores = case
    match_folders(Scorer(model, kernel="torch"), *folders, tmp_path / "pairs.parquet", Question(**asked))
    found = pq.read_table(tmp_path / "pairs.parquet").to_pydict()
    calibration = model.decision.calibration
    limit = calibration.limit(0.6) if "calibrated" in asked else model.decision.threshold("best_f1").logit
    kept = set(zip(found["query_row"], found["document_row"], strict=True))
    for place, score in enumerate(scores):
        if abs(score - limit) > 1e-3:
            assert (divmod(place, len(DOCUMENTS)) in kept) == (score > limit)
    places = [query * len(DOCUMENTS) + document for query, document in sorted(kept)]
    wanted = calibration(scores) if "calibrated" in asked else 1 / (1 + np.exp(-scores))
    assert found["score"] == pytest.approx(wanted[places].tolist(), abs=1e-3)


@pytest.mark.parametrize("more", [{}, {"num_candidates": 13, "index": "flat"}])
def test_the_best_with_calibrated_scores(case: Case, tmp_path: Path, more: dict[str, Any]) -> None:
    model, folders, scores = case
    reverse = {} if more else {"reverse_output": tmp_path / "reverse.parquet"}
    asked = {"top_k": 3, "calibrated": True, **more}
    match_folders(Scorer(model, kernel="torch"), *folders, tmp_path / "best.parquet", **asked, **reverse)
    found = pq.read_table(tmp_path / "best.parquet").to_pydict()
    places = np.array(found["query_row"]) * len(DOCUMENTS) + np.array(found["document_row"])
    assert found["score"] == pytest.approx(model.decision.calibration(scores[places]).tolist(), abs=1e-3)
    best = -np.sort(-scores.reshape(len(QUERIES), -1), axis=1)[:, :3]
    assert scores[places] == pytest.approx(best.ravel(), abs=1e-3)


def test_what_is_refused(case: Case, tiny_encoder: Path, tmp_path: Path) -> None:
    model, folders, _ = case
    bare = make_student(tiny_encoder, model.task)
    bare.load_state_dict(model.state_dict())
    output = tmp_path / "refused.parquet"
    for asked in ({"threshold": "best_f1"}, {"calibrated": True}):
        with pytest.raises(ConfigError, match="has no decision"):
            score_table(bare, ROWS, output, folders, table=TABLE, **asked)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="has no decision"):
            match_folders(Scorer(bare), *folders, output, **({"top_k": 2, **asked} if "calibrated" in asked else asked))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no threshold is called 'best'"):
        Question(threshold="best")
    if model.task.num_labels == 2:
        with pytest.raises(ConfigError, match="about 'same', the second class"):
            match_folders(Scorer(model), *folders, output, threshold="best_f1", label="other", by="probability")
    ranking = make_student(tiny_encoder, TaskConfig(kind="ranking"))
    with pytest.raises(ConfigError, match="this task is a ranking"):
        Question(threshold="best_f1").ranking(ranking.task)
    assert not output.exists()
