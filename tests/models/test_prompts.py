"""A prompt a side: put before its texts wherever they are read, saved with the student, part of the fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tests.helpers import write_jsonl

from distilmatch.config.pairs import PairRecipe, StudentConfig
from distilmatch.config.stages import StageConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import CacheError, ConfigError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.vectors import folder_vectors
from distilmatch.models import DiPair
from distilmatch.teachers import SentenceTeacher
from distilmatch.training.pairs.batches import CachedCollator, TextCollator
from distilmatch.training.pairs.distil import distil_pairs
from distilmatch.training.pairs.frozen import cache_kept_outputs
from distilmatch.types import TupleTable

PROMPTS = ("query: ", "passage: ")
PAIRS = [("the red car", "a blue car is fast"), ("two dogs", "one dog sleeps")]
PROMPTED = [tuple(prompt + text for prompt, text in zip(PROMPTS, pair, strict=True)) for pair in PAIRS]


def _models(encoder: Path) -> tuple[DiPair, DiPair]:
    """The same weights, with prompts and without."""
    shape = StudentConfig(kept_tokens=(3, 4), max_lengths=(16, 16), prompts=PROMPTS)
    task = TaskConfig(kind="binary")
    torch.manual_seed(0)
    plain = DiPair.from_encoder(encoder, shape.replaced(prompts=()), task).eval()
    prompted = DiPair.from_encoder(encoder, shape, task).eval()
    prompted.load_state_dict(plain.state_dict())
    return prompted, plain


def test_a_prompt_is_read_before_every_text_and_saved(tiny_encoder: Path, tmp_path: Path) -> None:
    model, plain = _models(tiny_encoder)
    for side in (0, 1):
        texts, prompted = ([pair[side] for pair in pairs] for pairs in (PAIRS, PROMPTED))
        torch.testing.assert_close(model.encode(texts, side).tokens, plain.encode(prompted, side).tokens)
        assert model.representation_fingerprint(side) != plain.representation_fingerprint(side)
    np.testing.assert_allclose(model.logits(PAIRS), plain.logits(PROMPTED), atol=1e-6)
    np.testing.assert_allclose(model.predict(PAIRS), plain.predict(PROMPTED), atol=1e-6)
    assert not np.allclose(model.logits(PAIRS), plain.logits(PAIRS), atol=1e-4)
    model.save_pretrained(tmp_path)
    again = DiPair.from_pretrained(tmp_path).eval()
    assert again.student.prompts == PROMPTS
    assert again.representation_fingerprint(1) == model.representation_fingerprint(1)
    np.testing.assert_array_equal(again.logits(PAIRS), model.logits(PAIRS))


def test_training_reads_it_with_live_encoders_and_from_the_cache(tiny_encoder: Path, tmp_path: Path) -> None:
    model, plain = _models(tiny_encoder)
    texts = [text for pair in PAIRS for text in pair]
    rows, blocks = np.array([[0, 1], [2, 3], [0, 3]]), np.zeros(3, dtype=np.int64)
    table = TupleTable(texts=texts, rows=rows, teacher=np.zeros((3, 1), dtype=np.float32), blocks=blocks)
    expected = plain.logits([(PROMPTS[0] + texts[i], PROMPTS[1] + texts[j]) for i, j in rows])
    outputs = cache_kept_outputs(model, table, tmp_path, "fp32")
    for collator, tolerance in ((TextCollator(table, model), 1e-5), (CachedCollator(table, outputs), 1e-2)):
        batch = collator([np.arange(3)])
        inputs = {name: batch[name] for name in ("rows", "streams", "kept") if name in batch}
        with torch.no_grad():
            np.testing.assert_allclose(model(**inputs).logits.numpy(), expected, atol=tolerance)
    with pytest.raises(CacheError, match="other texts"):
        cache_kept_outputs(plain, table, tmp_path, "fp32", write=False)


def test_a_recipe_names_them(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    stage = StageConfig(epochs=1, precision="fp32").to_dict()
    recipe = {
        "train": str(write_jsonl(tmp_path / "t.jsonl", [{"a": a, "b": b} for a, b in PAIRS * 2])),
        "output": str(tmp_path / "run"),
        "task": {"kind": "binary"},
        "teacher": {"models": [str(tiny_cross_encoder)]},
        "encoder": [str(tiny_encoder)],
        "transfer": {"rounds": 1, "cells_per_block": 8},
        "student": {"kept_tokens": [2, 2], "max_lengths": [8, 8], "prompts": list(PROMPTS)},
        "stage1": stage,
        "stage2": stage,
        "device": "cpu",
    }
    student = distil_pairs(PairRecipe.from_dict(recipe))
    assert student.student.prompts == PROMPTS
    with pytest.raises(ConfigError, match="one text for each of the 2 sides, it has 1"):
        StudentConfig.from_dict({"prompts": ["query: "]})


def _with_prompts(encoder: Path, folder: Path, prompts: object) -> Path:
    """The encoder as a sentence-transformers folder says its prompts."""
    shutil.copytree(encoder, folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return folder


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"query": "query: ", "passage": "passage: "}, ("query: ", "passage: ")),
        ({"query": "Instruct: find it\nQuery: ", "document": ""}, ("Instruct: find it\nQuery: ", "")),
        ({"search_query": "q ", "search_document": "d "}, ("q ", "d ")),
        ({"query": "", "document": ""}, ()),
        ({"sts": "the same: "}, ()),
        ({}, ()),
        (["query"], ()),
    ],
)
def test_prompts_of_the_encoders_folder_are_taken(
    prompts: object, expected: tuple[str, ...], tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="distilmatch")
    folder = _with_prompts(tiny_encoder, tmp_path / "encoder", prompts)
    shape = StudentConfig(kept_tokens=(3, 4), max_lengths=(16, 16), side_names=("query", "product"))
    model = DiPair.from_encoder(folder, shape)
    assert model.student.prompts == expected
    assert ("prompts of the encoder" in caplog.text) == bool(expected)
    assert DiPair.from_encoder(folder, shape.replaced(prompts=())).student.prompts == ()
    assert DiPair.from_encoder(folder, shape.replaced(prompts=("a ", "b "))).student.prompts == ("a ", "b ")


def test_the_longer_side_pays_for_its_prompt(tiny_encoder: Path) -> None:
    model, _ = _models(tiny_encoder)
    long = " ".join(["car"] * 40)
    ids = [stream.token_ids(model.tokenizers[0], [long])[0] for stream in model.streams]
    assert [len(numbers) for numbers in ids] == [16, 16] and len(model.streams) == 2


def test_candidates_are_asked_with_the_sentence_encoders_prompts(tiny_encoder: Path, tmp_path: Path) -> None:
    modules = [Transformer(str(tiny_encoder)), Pooling(32, pooling_mode="mean")]
    prompts = {"query": "query of a ", "document": "document with the "}
    encoder = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    encoder.save(str(tmp_path / "st"))
    model, _ = _models(tiny_encoder)
    texts = ["the red car", "two dogs", "a lamp"]
    table = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in texts])
    for side, ask in ((0, encoder.encode_query), (1, encoder.encode_document)):
        folder = encode_table(model, table, tmp_path / f"side_{side}", side=side)
        vectors = folder_vectors(tmp_path / "st", table, folder, tmp_path / f"v_{side}", precision="fp32")
        expected = ask(texts)
        np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=5e-4)
    bare = folder_vectors(tmp_path / "st", table, tmp_path / "side_0", tmp_path / "bare", precision="fp32", prompt="")
    expected = encoder.encode(texts)
    np.testing.assert_allclose(bare, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=5e-4)


def test_an_embedding_teacher_is_asked_with_its_prompt(tiny_encoder: Path) -> None:
    encoder = SentenceTransformer(
        modules=[Transformer(str(tiny_encoder)), Pooling(32, pooling_mode="mean")], device="cpu"
    )
    plain = SentenceTeacher(encoder, precision="fp32")
    prompted = SentenceTeacher(encoder, precision="fp32", prompt="query of a ")
    np.testing.assert_allclose(prompted.embed(["car"]), plain.embed(["query of a car"]), atol=1e-6)
    assert prompted.fingerprint != plain.fingerprint
