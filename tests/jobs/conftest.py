"""A tiny student with random weights, and a table of pairs whose texts differ in length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models.dipair import DiPair

CLASSES = ("no", "maybe", "yes")


def make_student(encoder: Path, task: TaskConfig | None = None, seed: int = 0, **settings: object) -> DiPair:
    torch.manual_seed(seed)
    shape = {"max_lengths": (24, 32), "kept_tokens": (3, 4), "width": 16, "side_names": ("query", "document")}
    shape["head_start"] = "random"  # so that students of two seeds differ
    model = DiPair.from_encoder(encoder, StudentConfig(**{**shape, **settings}), task or TaskConfig(kind="binary"))
    # Random weights of the usual size give logits so near to one another that no test would see a swapped row.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


def make_matcher(encoder: Path) -> DiPair:
    """Its score is more than a similarity: a fresh student's classifier reads nothing else."""
    model = make_student(encoder)
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    return model


@pytest.fixture(scope="session")
def student(tiny_encoder: Path) -> DiPair:
    """Two sides, one label."""
    return make_student(Path(tiny_encoder))


@pytest.fixture(scope="session")
def classifier(tiny_encoder: Path) -> DiPair:
    """Two sides, three labels."""
    return make_student(Path(tiny_encoder), TaskConfig(kind="classification", classes=CLASSES))


@pytest.fixture(scope="session")
def other_student(tiny_encoder: Path) -> DiPair:
    """As `student`, with other weights."""
    return make_student(Path(tiny_encoder), seed=1)


Row = dict[str, str]


def pair_rows(rows: int = 30) -> list[Row]:
    """Pairs of 7 queries and 11 documents; ids name the texts."""
    return [
        {
            "qid": f"q{i % 7}",
            "query": f"query {'very ' * (i % 7)}{i % 7}",
            "did": f"d{i * 5 % 11}",
            "document": f"document {'long ' * (i * 5 % 11)}{i * 5 % 11}",
        }
        for i in range(rows)
    ]
