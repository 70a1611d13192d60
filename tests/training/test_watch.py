"""Services and callbacks of the user see every stage of every job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers import write_jsonl
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from distilmatch.config import EmbeddingRecipe, FineTuneConfig, PairRecipe, TableConfig, TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.training import checks
from distilmatch.training.embeddings.distil import distil_embeddings
from distilmatch.training.pairs.distil import distil_pairs
from distilmatch.training.teacher.fine_tune import fine_tune_teacher

ROWS = [
    {"a": f"the {x} car", "b": f"a {y} car", "label": int(x == y)} for x in ("red", "blue") for y in ("red", "blue")
]
STAGE = {"epochs": 1, "evaluations": 1, "precision": "fp32"}


class Seen(TrainerCallback):
    def __init__(self) -> None:
        self.logs: dict[str, set[str]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.setdefault(args.run_name or "", set()).update(logs)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the service wandb is told; its package is not needed for that."""
    seen = Seen()

    class Service(Seen):
        def __init__(self) -> None:
            self.logs = seen.logs

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Service)
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["wandb"])
    return seen


@pytest.fixture
def pair(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> dict[str, Any]:
    return {
        "train": str(write_jsonl(tmp_path / "train.jsonl", ROWS)),
        "dev": str(write_jsonl(tmp_path / "dev.jsonl", ROWS)),
        "output": str(tmp_path / "run"),
        "task": {"kind": "binary"},
        "table": {"label_column": "label"},
        "teacher": {"models": [str(tiny_cross_encoder)]},
        "encoder": [str(tiny_encoder)],
        "start": "encoder",
        "transfer": {"rounds": 1, "cells_per_block": 8},
        "student": {"kept_tokens": [2, 2], "max_lengths": [8, 8]},
        "stage1": STAGE,
        "stage2": STAGE,
        "device": "cpu",
    }


def test_every_stage_of_a_pair_job_is_reported(pair: dict[str, Any], service: Seen) -> None:
    own = Seen()
    distil_pairs(PairRecipe.from_dict(pair | {"report_to": ["wandb"]}), callbacks=[own])
    assert set(service.logs) == {"stage1", "stage2"} and service.logs == own.logs
    assert all({"loss", "eval_auc"} <= names for names in service.logs.values())
    distil_pairs(PairRecipe.from_dict(pair))  # done, and the same run


def test_every_stage_of_an_embedding_job_is_reported(tmp_path: Path, tiny_encoder: Path, service: Seen) -> None:
    rows = [{"a": row["a"], "b": row["b"], "score": float(row["label"])} for row in ROWS]
    scored = {"source": str(write_jsonl(tmp_path / "s.jsonl", rows)), "score_column": "score"}
    (tmp_path / "corpus.txt").write_text("\n".join(f"{row['a']}\n{row['b']} is fast" for row in ROWS))
    own = Seen()
    distil_embeddings(
        EmbeddingRecipe.from_dict(
            {
                "corpus": {"sources": [str(tmp_path / "corpus.txt")]},
                "teacher": {"models": [str(tiny_encoder)]},
                "student": {"layers": 1, "max_length": 16},
                "objective": {"bank_size": 8},
                "labelled": [scored],
                "dev": scored,
                "stage1": STAGE | {"batch_size": 2},
                "stage2": STAGE | {"batch_size": 2},
                "output": str(tmp_path / "run"),
                "report_to": ["wandb"],
                "device": "cpu",
            }
        ),
        callbacks=[own],
    )
    assert set(service.logs) == {"stage1", "stage2"} and service.logs == own.logs
    assert all("loss" in names for names in service.logs.values())


def test_the_fine_tuning_of_a_teacher_is_reported(tmp_path: Path, tiny_encoder: Path, service: Seen) -> None:
    config = FineTuneConfig(base_model=str(tiny_encoder), epochs=1, batch_size=2, max_length=16, report_to=("wandb",))
    read_as = TableConfig(label_column="label")
    fine_tune_teacher(ROWS, TaskConfig(kind="binary"), tmp_path / "teacher", config, read_as=read_as)
    assert any("loss" in names for names in service.logs.values())


def test_a_service_that_is_not_installed_is_refused_before_any_work(pair: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be one of .*wandb"):
        PairRecipe.from_dict(pair | {"report_to": ["wand"]})
    with pytest.raises(ConfigError, match="flyte, which is not installed: pip install flyte"):
        distil_pairs(PairRecipe.from_dict(pair | {"report_to": ["flyte"]}))
    assert not (tmp_path / "run").exists()
