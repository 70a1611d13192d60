"""Prompts of sentence encoders: kept by a student, learned with, asked with when it is measured, and saved beside an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tests.helpers import COLOURS, THINGS
from transformers import AutoModel, AutoTokenizer

from distilmatch import (
    DiPair,
    SentenceTeacher,
    StudentConfig,
    TaskConfig,
    distil_embeddings,
    embed_corpus,
    evaluate_sts,
)
from distilmatch.config.embeddings import EmbeddingRecipe, LabelledConfig
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError
from distilmatch.evaluation.sts.retrieval import RetrievalSet, measure_retrieval
from distilmatch.evaluation.sts.tasks import StsTask
from distilmatch.metrics import cosine_spearman
from distilmatch.pretrained.prompts import saved_prompts
from distilmatch.pretrained.sentence import load_sentence_encoder
from distilmatch.training.embeddings.batches import prompted
from distilmatch.training.embeddings.distil import new_student

PROMPTS = {"query": "query of a ", "document": "document with the ", "sts": "the same "}
TEXTS = [f"the {colour} {thing}" for colour in COLOURS for thing in THINGS][:24]


@pytest.fixture
def teacher(tiny_sentence_encoder: Path, tmp_path: Path) -> Path:
    """A folder with prompts."""
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu", prompts=PROMPTS)
    model.save_pretrained(str(tmp_path / "teacher"))
    return tmp_path / "teacher"


def _settings(tmp_path: Path, teacher: Path | None) -> dict[str, Any]:
    stage = {"epochs": 1, "batch_size": 8, "evaluations": 1, "precision": "fp32"}
    return {
        "output": str(tmp_path / "run"),
        "teacher": {"models": [str(teacher)] if teacher else [], "precision": "fp32", "dtype": "fp32"},
        "student": {"layers": [0], "max_length": 16},
        "objective": {"bank_size": 8},
        "stage1": stage,
        "stage2": stage,
        "device": "cpu",
    }


def _kept(model: SentenceTransformer) -> dict[str, str]:
    return {name: text for name, text in model.prompts.items() if text}


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_student_keeps_its_teachers_prompts_through_both_stages(
    in_memory: bool, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="distilmatch")
    settings = _settings(tmp_path, teacher) | {"labelled": [{"kind": "pairs"}]}
    rows = [{"a": text, "b": f"{text} is small"} for text in TEXTS]
    given = SentenceTransformer(str(teacher), device="cpu") if in_memory else None
    distil_embeddings(settings, corpus=TEXTS, labelled=rows, teacher=given)
    assert "keeps the teacher's prompts: query 'query of a '" in caplog.text
    student = SentenceTransformer(str(tmp_path / "run" / "student"), device="cpu")
    assert _kept(student) == PROMPTS and student.default_prompt_name is None
    assert saved_prompts(tmp_path / "run" / "student") == (PROMPTS["query"], PROMPTS["document"])
    expected = student.encode([PROMPTS["query"] + text for text in TEXTS])
    np.testing.assert_allclose(student.encode(TEXTS, prompt_name="query"), expected, atol=1e-6)
    np.testing.assert_allclose(student.encode_query(TEXTS), expected, atol=1e-6)
    assert not np.allclose(student.encode(TEXTS), expected, atol=1e-3)


def test_another_encoder_takes_the_teachers_prompts_too(teacher: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path, teacher) | {"corpus": {"sources": ["unused"]}}
    settings["student"] |= {"start": "encoder", "encoder": str(tiny_encoder)}
    assert _kept(new_student(EmbeddingRecipe.from_dict(settings))) == PROMPTS
    settings |= {"corpus": None, "labelled": [{"source": "unused", "kind": "pairs"}]}  # nothing is distilled
    assert _kept(new_student(EmbeddingRecipe.from_dict(settings))) == {}
    settings["student"] |= {"encoder": str(teacher)}
    assert _kept(new_student(EmbeddingRecipe.from_dict(settings))) == PROMPTS


def test_a_prompt_that_the_teacher_always_reads_is_none_of_the_students(
    teacher: Path, tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="distilmatch")
    settings = _settings(tmp_path, teacher) | {"corpus": {"sources": ["unused"]}}
    settings["teacher"] |= {"prompt": "query of a "}
    assert _kept(new_student(EmbeddingRecipe.from_dict(settings))) == {}
    settings["teacher"] |= {"prompt": ""}
    assert _kept(new_student(EmbeddingRecipe.from_dict(settings))) == PROMPTS
    model = SentenceTransformer(str(teacher), device="cpu", default_prompt_name="document")
    model.save_pretrained(str(tmp_path / "default"))
    settings["teacher"] |= {"prompt": None, "models": [str(tmp_path / "default")]}
    assert _kept(new_student(EmbeddingRecipe.from_dict(settings))) == {}
    settings["student"] |= {"start": "encoder", "encoder": str(tiny_encoder)}
    assert _kept(new_student(EmbeddingRecipe.from_dict(settings))) == {}
    assert "after the prompt 'document with the ': the student learns to do without" in caplog.text


def test_a_pooling_that_is_put_on_leaves_the_prompts(teacher: Path) -> None:
    assert _kept(load_sentence_encoder(teacher, pooling="cls", device="cpu")) == PROMPTS


def test_teacher_and_student_read_the_prompts_of_the_corpus(teacher: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path, teacher)
    asked = [PROMPTS["query"], PROMPTS["document"]]
    settings["corpus"] = {"prompts": asked}
    corpus, embeddings = embed_corpus(settings, corpus=[*TEXTS, *TEXTS])
    assert len(corpus) == len(TEXTS) and corpus.duplicates == len(TEXTS)
    split = [
        next((prompt, text.removeprefix(prompt)) for prompt in asked if text.startswith(prompt)) for text in corpus
    ]
    assert [text for _, text in split] == TEXTS and {prompt for prompt, _ in split} == set(asked)
    model = SentenceTransformer(str(teacher), device="cpu")
    np.testing.assert_allclose(embeddings, model.encode(list(corpus)), atol=1e-5)
    plain, _ = embed_corpus(_settings(tmp_path, teacher), corpus=TEXTS)
    assert list(plain) == TEXTS


def test_labelled_texts_are_read_after_the_prompt_of_their_column() -> None:
    rows = [{"a": "a dog", "b": "a cat"}, {"a": "a cat", "b": "a dog"}, {"a": "a dog", "b": "a dog"}]
    config = LabelledConfig(source="unused", kind="pairs", prompts=("q ", "d "))
    table = prompted(load_table(rows, config.table), config.prompts)
    assert list(table.tuples()) == [("q " + row["a"], "d " + row["b"]) for row in rows]
    assert len(table.texts) == len(set(table.texts)) == 4
    with pytest.raises(ConfigError, match="one text for each of the 3 columns, it has 2"):
        LabelledConfig.from_dict({"source": "x", "kind": "triplets", "prompts": ["a", "b"]})


def test_evaluations_ask_with_the_models_prompts(teacher: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="distilmatch")
    rows: list[dict[str, Any]] = [{"a": TEXTS[i], "b": TEXTS[-i], "score": i % 5} for i in range(1, 12)]
    config = LabelledConfig(source="unused", score_column="score", score_range=(0, 5))
    task = StsTask(name="stsb", label="STS-B", table=load_table(rows, config.table, config.task), score_range=(0, 5))
    relevance = np.eye(6, dtype=np.float32)
    retrieval = RetrievalSet(name="r", queries=TEXTS[:6], documents=[f"{text} is small" for text in TEXTS[:6]],
                             relevance=relevance)  # fmt: skip
    model = SentenceTransformer(str(teacher), device="cpu")
    report = evaluate_sts(model, task, measure_speed=False, retrieval=retrieval)
    assert "asked with the prompt 'the same '" in caplog.text
    encoder = SentenceTeacher(model, precision="fp32", prompt="the same ")
    bare = SentenceTransformer(str(teacher), device="cpu", prompts={name: "" for name in PROMPTS})
    bare_report = evaluate_sts(bare, task, measure_speed=False, retrieval=retrieval)
    left, right = (encoder.embed([row[column] for row in rows]) for column in "ab")
    expected_spearman = cosine_spearman(left, right, np.array([row["score"] for row in rows]))
    assert report.results[0].average == pytest.approx(expected_spearman, abs=1e-4)
    assert bare_report.results[0].average != pytest.approx(expected_spearman, abs=1e-3)
    expected = measure_retrieval(model.encode_query, retrieval, model.encode_document)  # type: ignore[arg-type]
    assert report.results[0].retrieval == pytest.approx(expected)
    assert bare_report.results[0].retrieval != pytest.approx(expected)


@pytest.mark.parametrize("side", [0, "product"])
def test_a_saved_encoder_has_its_sides_prompt_as_default(side: int | str, tiny_encoder: Path, tmp_path: Path) -> None:
    shape = StudentConfig(
        kept_tokens=(3, 4), max_lengths=(16, 16), prompts=("query: ", "passage: "), side_names=("query", "product")
    )
    torch.manual_seed(0)
    student = DiPair.from_encoder(tiny_encoder, shape, TaskConfig(kind="binary")).eval()
    student.save_encoder(tmp_path / "e", side)
    model = SentenceTransformer(str(tmp_path / "e"), device="cpu")
    prompt = "query: " if side == 0 else "passage: "
    np.testing.assert_allclose(model.encode(TEXTS), model.encode(TEXTS, prompt=prompt), atol=1e-6)
    assert not np.allclose(model.encode(TEXTS), model.encode(TEXTS, prompt=""), atol=1e-4)
    np.testing.assert_allclose(model.encode_query(TEXTS), model.encode(TEXTS, prompt="query: "), atol=1e-6)
    np.testing.assert_allclose(model.encode(TEXTS, prompt_name="product"), model.encode_document(TEXTS), atol=1e-6)
    plain, tokenizer = AutoModel.from_pretrained(tmp_path / "e").eval(), AutoTokenizer.from_pretrained(tmp_path / "e")
    with torch.no_grad():
        states = plain(**tokenizer([prompt + TEXTS[0]], return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(model.encode(TEXTS[:1]), states.mean(dim=1).numpy(), atol=1e-5)
    again = DiPair.from_encoder(tmp_path / "e", shape.replaced(prompts=None), TaskConfig(kind="binary"))
    assert again.student.prompts == ("query: ", "passage: ")


def test_an_encoder_without_prompts_is_saved_as_before(tiny_encoder: Path, tmp_path: Path) -> None:
    student = DiPair.from_encoder(tiny_encoder, StudentConfig(kept_tokens=(3, 4), max_lengths=(16, 16)))
    student.save_encoder(tmp_path / "e")
    assert not (tmp_path / "e" / "modules.json").exists()
