"""Texts, tables and teachers that a program has in memory train the sentence student that paths do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sentence_transformers import SentenceTransformer
from tests.helpers import COLOURS, THINGS, write_jsonl

from distilmatch import EmbeddingRecipe, SentenceTeacher, distil_embeddings, embed_corpus
from distilmatch.errors import BadRowsError, ConfigError, DataError, ModelError
from distilmatch.teachers import FunctionEmbeddingTeacher

TEXTS = [f"the {colour} {thing}" for colour in COLOURS for thing in THINGS][:40]
SCORED = [{"a": TEXTS[i], "b": TEXTS[-i], "score": i % 5} for i in range(1, 20)]
PAIRS = [{"a": text, "b": f"{text} is small"} for text in TEXTS[:16]]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    stage = {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "evaluations": 1, "precision": "fp32"}
    return {
        "output": str(tmp_path / "run"),
        "teacher": {"precision": "fp32", "dtype": "fp32"},
        "student": {"layers": [0], "max_length": 16},
        "objective": {"bank_size": 16},
        "stage1": stage,
        "stage2": stage,
        "device": "cpu",
    }


@pytest.fixture
def model(tiny_sentence_encoder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_sentence_encoder), device="cpu")


def _counts(texts: list[str]) -> np.ndarray:
    """(n, 8), how often some letters stand in each text."""
    return np.array([[text.count(letter) + 0.1 for letter in "aedlorsw"] for text in texts])


def test_what_is_in_memory_trains_what_its_paths_do(
    settings: dict[str, Any], model: SentenceTransformer, tiny_sentence_encoder: Path, tmp_path: Path
) -> None:
    entries = {"labelled": [{"kind": "pairs"}], "dev": {"score_column": "score", "score_range": [0, 5]}}
    model.train()  # nothing of it matters, and nothing of it is changed
    given = distil_embeddings(
        settings | entries, corpus=TEXTS, labelled=pd.DataFrame(PAIRS), dev=pl.DataFrame(SCORED), teacher=model
    )
    assert model.training
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    named = settings | {"output": str(tmp_path / "other"), "corpus": {"sources": [str(tmp_path / "texts.txt")]}}
    named["teacher"] = {**settings["teacher"], "models": [str(tiny_sentence_encoder)]}
    named["labelled"] = [{"kind": "pairs", "source": str(write_jsonl(tmp_path / "pairs.jsonl", PAIRS))}]
    named["dev"] = entries["dev"] | {"source": str(write_jsonl(tmp_path / "dev.jsonl", SCORED))}  # type: ignore[operator]
    expected = distil_embeddings(EmbeddingRecipe.from_dict(named))
    np.testing.assert_allclose(given.encode(TEXTS), expected.encode(TEXTS), atol=1e-5)
    held = EmbeddingRecipe.from_yaml(tmp_path / "run" / "recipe.yaml")
    assert held.corpus is not None and held.teacher is not None
    for shown in (*held.corpus.sources, *held.teacher.models, held.labelled[0].source, held.dev[0].source):
        assert shown.startswith("in memory, ")


CORPORA: dict[str, Any] = {
    "a list": list,
    "an iterator": iter,
    "pandas": lambda texts: pd.DataFrame({"text": texts}),
    "pandas by name": lambda texts: pd.DataFrame({"number": range(len(texts)), "body": texts}),
    "a Series": lambda texts: pd.Series(texts, index=range(len(texts), 0, -1)),
    "an array": np.array,
    "polars": lambda texts: pl.DataFrame({"text": texts}),
    "a polars Series": pl.Series,
    "arrow": lambda texts: pa.table({"text": texts}),
    "an Arrow column": pa.array,
    "datasets": lambda texts: datasets.Dataset.from_dict({"text": texts}),
    "a column of a dataset": lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
    "rows": lambda texts: [{"text": text} for text in texts],
    "rows of an iterator": lambda texts: ({"text": text} for text in texts),
}


@pytest.mark.parametrize("form", CORPORA)
def test_every_form_of_a_corpus_is_read(form: str, settings: dict[str, Any]) -> None:
    texts = [" the red car ", "", "two dogs", "the red car"]
    settings |= {"student": {"start": "encoder", "encoder": "unused"}}
    if form == "pandas by name":
        settings["corpus"] = {"text_columns": ["body"]}
    corpus, embeddings = embed_corpus(
        settings, corpus=CORPORA[form](texts), teacher=FunctionEmbeddingTeacher(_counts, "counts")
    )
    assert list(corpus) == ["the red car", "two dogs"] and corpus.empty == corpus.duplicates == 1
    np.testing.assert_allclose(embeddings, _counts(list(corpus)), rtol=1e-6)


def test_missing_texts_are_empty_and_other_values_are_named(settings: dict[str, Any]) -> None:
    teacher = FunctionEmbeddingTeacher(_counts, "counts")
    settings |= {"student": {"start": "encoder", "encoder": "unused"}}
    assert list(embed_corpus(settings, corpus=["a dog", None, float("nan")], teacher=teacher)[0]) == ["a dog"]
    for bad in (3, "a \ud800"):
        with pytest.raises(BadRowsError, match="row 2"):
            embed_corpus(settings, corpus=["a dog", bad], teacher=teacher)
    for empty in ([], [None], ["", " "]):
        with pytest.raises(DataError, match="no text|no rows|hold"):
            embed_corpus(settings, corpus=empty, teacher=teacher)


def test_a_list_of_files_is_no_list_of_texts(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a dog\n")
    with pytest.raises(DataError, match="corpus.sources"):
        embed_corpus(settings, corpus=[str(tmp_path / "a.txt")], teacher=_counts)
    settings |= {"student": {"start": "encoder", "encoder": "unused"}}
    teacher = FunctionEmbeddingTeacher(_counts, "counts")
    assert list(embed_corpus(settings, corpus=tmp_path / "a.txt", teacher=teacher)[0]) == ["a dog"]


def test_a_named_function_is_asked_once_and_a_run_goes_on(settings: dict[str, Any], tiny_encoder: Path) -> None:
    asked: list[str] = []

    def counted(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return _counts(texts)

    counted.name = "counts, first version"  # type: ignore[attr-defined]
    settings["student"] = {"start": "encoder", "encoder": str(tiny_encoder), "layers": 1, "max_length": 16}
    student = distil_embeddings(settings, corpus=TEXTS, teacher=counted)
    first = len(asked)
    assert first <= len(TEXTS) + 1 and student.encode("a dog").shape == (32,)
    again = distil_embeddings(settings, corpus=pd.Series(TEXTS), teacher=counted)
    assert len(asked) == first
    np.testing.assert_array_equal(student.encode(TEXTS), again.encode(TEXTS))
    with pytest.raises(ConfigError, match="another recipe .different: corpus."):
        distil_embeddings(settings, corpus=TEXTS[:-1], teacher=counted)
    with pytest.raises(ConfigError, match="another recipe .different: teacher."):
        distil_embeddings(settings, corpus=TEXTS, teacher=FunctionEmbeddingTeacher(_counts, "counts 2"))


def test_of_a_function_without_a_name_nothing_is_kept_and_that_is_said(
    settings: dict[str, Any], tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings["student"] = {"start": "encoder", "encoder": str(tiny_encoder), "layers": 1, "max_length": 16}
    distil_embeddings(settings, corpus=TEXTS, teacher=_counts)
    assert caplog.text.count("function without a name") == 1 and "FunctionEmbeddingTeacher(" in caplog.text
    output = Path(settings["output"])
    assert (output / "student").is_dir() and not list((output / "embeddings").glob("*/*.npy"))
    _, embeddings = embed_corpus(settings, corpus=TEXTS, teacher=_counts)
    np.testing.assert_allclose(embeddings, _counts(TEXTS), rtol=1e-6)
    assert not list((output / "embeddings").glob("*/*.npy"))


def test_what_a_named_function_gave_stays_when_one_without_a_name_fails(settings: dict[str, Any]) -> None:
    settings |= {"student": {"start": "encoder", "encoder": "unused"}}
    embed_corpus(settings, corpus=TEXTS, teacher=FunctionEmbeddingTeacher(_counts, "counts"))
    with pytest.raises(ModelError, match="not numbers"):
        embed_corpus(settings, corpus=TEXTS, teacher=lambda texts: "?")
    (kept,) = (Path(settings["output"]) / "embeddings").iterdir()
    asked: list[list[str]] = []
    embed_corpus(settings, corpus=TEXTS, teacher=FunctionEmbeddingTeacher(asked.append, "counts", width=8))
    assert not asked and list(kept.glob("*.npy"))


def test_a_sentence_teacher_embeds_as_it_was_set(settings: dict[str, Any], model: SentenceTransformer) -> None:
    teacher = SentenceTeacher(model, prompt="a new ", precision="fp32")
    _, embeddings = embed_corpus(settings, corpus=TEXTS, teacher=teacher)
    np.testing.assert_allclose(embeddings, model.encode(TEXTS, prompt="a new "), atol=1e-6)
    settings["teacher"] |= {"prompt": "an old "}
    _, embeddings = embed_corpus({**settings, "output": settings["output"] + "2"}, corpus=TEXTS, teacher=model)
    np.testing.assert_allclose(embeddings, model.encode(TEXTS, prompt="an old "), atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: [[0.0]], r"shape \(1, 1\) for 2 texts"),
        (lambda texts: [0.0] * len(texts), r"shape \(2,\)"),
        (lambda texts: [[]] * len(texts), r"shape \(2, 0\)"),
        (lambda texts: [["a"]] * len(texts), "not numbers"),
        (lambda texts: [[float("nan")]] * len(texts), "'a dog' is not finite"),
    ],
)
def test_a_function_that_does_not_embed_each_text_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FunctionEmbeddingTeacher(answer, "x").embed(["a dog", "a cat"])


def test_a_function_keeps_its_width() -> None:
    teacher = FunctionEmbeddingTeacher(lambda texts: np.ones((len(texts), len(texts))), "x")
    assert teacher.width == 1
    with pytest.raises(ModelError, match="1 numbers for each text"):
        teacher.embed(["a dog", "a cat"])
    assert FunctionEmbeddingTeacher(_counts, "x", width=8).embed([]).shape == (0, 8)


def test_what_does_not_go_together_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is a int"):
        distil_embeddings(settings, corpus=TEXTS, teacher=3)
    with pytest.raises(ConfigError, match="`name` of a teacher"):
        FunctionEmbeddingTeacher(_counts, " ")
    with pytest.raises(ConfigError, match="another model with `student.start: encoder`"):
        distil_embeddings(settings, corpus=TEXTS, teacher=_counts)
    with pytest.raises(ConfigError, match="1 table.s. given, and the recipe says of 2"):
        distil_embeddings(settings | {"labelled": [{"kind": "pairs"}] * 2}, labelled=PAIRS, teacher=_counts)
    with pytest.raises(ConfigError, match="score_column"):
        distil_embeddings(settings, corpus=TEXTS, dev=SCORED, teacher=_counts)


def test_several_tables_are_read_as_the_recipe_says_of_each(settings: dict[str, Any], tiny_encoder: Path) -> None:
    student = {"start": "encoder", "encoder": str(tiny_encoder), "layers": 1, "max_length": 16}
    settings |= {"teacher": None, "student": student}
    settings["labelled"] = [{"kind": "pairs"}, {"kind": "scored", "score_column": "score", "score_range": [0, 5]}]
    distil_embeddings(settings, labelled=[PAIRS, iter(SCORED)])
    card = (Path(settings["output"]) / "student" / "README.md").read_text()
    assert "| labelled pairs 1 | 16 (in memory" in card and "| labelled scored 2 | 19 (in memory" in card


_PROGRAM = """
import os, sys
import numpy as np
from distilmatch import distil_embeddings

def counts(texts):
    return np.array([[text.count(letter) + 0.1 for letter in "aedlorsw"] for text in texts])

case, encoder, output = sys.argv[1:]
texts = [f"the {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("car", "dog", "cat", "bed")]
if case != "no name":
    counts.name = "counts"
if case == "other rows" and os.environ["RANK"] == "1":
    texts = texts[1:]
stage = {"epochs": 1, "batch_size": 4, "evaluations": 1, "precision": "fp32"}
student = {"start": "encoder", "encoder": encoder, "layers": 1, "max_length": 16}
recipe = {"output": output, "student": student, "objective": {"bank_size": 8}, "stage1": stage, "device": "cpu"}
distil_embeddings(recipe, corpus=texts, teacher=counts)
"""


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("case", "message"),
    [("same", ""), ("no name", "give the function a `name`"), ("other rows", "different: corpus")],
)
def test_two_processes_share_what_each_has_in_memory_or_are_refused(
    case: str, message: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(_PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        [*command, case, str(tiny_encoder), str(tmp_path / "run")],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (not message), done.stderr[-12000:]
    assert message in done.stderr
    assert (tmp_path / "run" / "student").is_dir() == (not message)
