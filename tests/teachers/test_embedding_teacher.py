"""Embedding teachers and their cache: the same as plain encode, made once, gone on with after a stop, errors named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tests.helpers import Stopped

from distilmatch.config.embeddings import CorpusConfig, EmbeddingTeacherConfig
from distilmatch.data.corpus import TextCorpus, write_corpus
from distilmatch.errors import CacheError, ConfigError, DataError, ModelError
from distilmatch.teachers import (
    PrecomputedTeacher,
    SentenceTeacher,
    TeacherCombination,
    cached_embeddings,
    load_embedding_teacher,
    read_embeddings,
)

TEXTS = [
    "the red car",
    "a dog",
    "",
    "a small green house by the river",
    "a dog",
    "two books",
    "one old lamp in the rain",
]


@pytest.fixture
def corpus(tmp_path: Path) -> TextCorpus:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    return write_corpus(CorpusConfig(sources=(str(tmp_path / "texts.txt"),)), tmp_path / "corpus")


def _save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def _rows(count: int = 7, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def test_a_sentence_teacher_gives_what_encode_gives(tiny_sentence_encoder: Path) -> None:
    teacher = SentenceTeacher(tiny_sentence_encoder, precision="fp32", batch_size=2, device="cpu")
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    assert teacher.width == 32
    np.testing.assert_allclose(teacher.embed(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert teacher.embed([]).shape == (0, 32)
    cut = SentenceTeacher(tiny_sentence_encoder, precision="fp32", max_length=4, device="cpu")
    np.testing.assert_allclose(cut.embed(["the red car"]), cut.embed(["the red boat"]), atol=1e-6)
    assert cut.fingerprint != teacher.fingerprint and cut.model.max_seq_length == model.max_seq_length
    half = SentenceTeacher(tiny_sentence_encoder, precision="bf16", device="cpu")
    np.testing.assert_allclose(half.embed(TEXTS), teacher.embed(TEXTS), atol=0.05)
    assert half.embed(TEXTS).dtype == np.float32


def test_the_teacher_is_in_evaluation_mode(tiny_sentence_encoder: Path) -> None:
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu").train()
    teacher = SentenceTeacher(model, precision="fp32")
    np.testing.assert_array_equal(teacher.embed(TEXTS), teacher.embed(TEXTS))
    assert model.training
    before = teacher.fingerprint
    with torch.no_grad():
        next(iter(model.parameters())).add_(1.0)
    assert teacher.fingerprint != before


def test_a_transformer_takes_a_pooling(tiny_encoder: Path) -> None:
    by_mean, by_first = (
        SentenceTeacher(tiny_encoder, pooling=pooling, precision="fp32", device="cpu") for pooling in ("auto", "cls")
    )
    assert by_mean.width == by_first.width == 32
    assert np.abs(by_mean.embed(TEXTS) - by_first.embed(TEXTS)).max() > 0.01
    assert by_mean.fingerprint != by_first.fingerprint


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, tiny_sentence_encoder: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(tiny_sentence_encoder, folder)
    path = folder / "tokenizer.json"
    known = json.loads(path.read_text())
    vocabulary = known["model"]["vocab"]
    size = len(vocabulary)
    known["model"]["vocab"] = vocabulary | {"another": size, "model": size + 1}
    path.write_text(json.dumps(known))
    with pytest.raises(ModelError, match=rf"another model's: its tokens go up to {size + 1}, .* embeddings for {size}"):
        SentenceTeacher(folder)


def test_teachers_that_cannot_be_had(tmp_path: Path, tiny_encoder: Path, tiny_sentence_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        SentenceTeacher(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is empty and holds"):
        SentenceTeacher(tmp_path / "empty")
    with pytest.raises(ConfigError, match="between 4 and 64"):
        SentenceTeacher(tiny_encoder, max_length=65)
    with pytest.raises(ConfigError, match="batch_size"):
        SentenceTeacher(tiny_encoder, batch_size=0)
    broken = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(torch.nan)
    with pytest.raises(ModelError, match="'a dog' is not finite"):
        SentenceTeacher(broken).embed(["a dog"])


@pytest.mark.parametrize("kind", ["npy", "list", "fixed"])
def test_embeddings_made_elsewhere(tmp_path: Path, corpus: TextCorpus, kind: str) -> None:
    rows = _rows()
    if kind == "npy":
        path = _save(tmp_path / "e.npy", rows)
    else:
        path = tmp_path / "e.parquet"
        flat = pa.array(rows.ravel())
        lists = (
            pa.FixedSizeListArray.from_arrays(flat, 5)
            if kind == "fixed"
            else pa.array(rows.tolist(), pa.list_(pa.float32()))
        )
        pq.write_table(pa.table({"vector": lists, "n": pa.array(range(7))}), path)
    teacher = load_embedding_teacher(EmbeddingTeacherConfig(embeddings=(str(path),), embedding_column="vector"))
    found = cached_embeddings(teacher, corpus, tmp_path / "cache", dtype="fp32")
    np.testing.assert_allclose(found, rows[[0, 1, 3, 5, 6]])


def test_embeddings_that_do_not_fit(tmp_path: Path, corpus: TextCorpus) -> None:
    def refused(array: np.ndarray, message: str) -> None:
        with pytest.raises(DataError, match=message):
            cached_embeddings(PrecomputedTeacher(_save(tmp_path / "e.npy", array)), corpus, tmp_path / "cache")

    refused(_rows(5), r"e\.npy holds 5 embeddings, the corpus' sources have 7 rows")
    refused(_rows().ravel(), r"shape \(35,\)")
    refused(_rows(7, 0), r"shape \(7, 0\)")
    refused(np.array([["a"]] * 7), "not a row of numbers")
    refused(np.array([[None]] * 7, dtype=object), "not a readable .npy")
    broken = _rows()
    broken[5, 1] = np.nan
    refused(broken, r"e\.npy, row 6: the embedding is not finite")
    broken[5, 1], broken[2, 0] = 0, np.nan  # of a blank line: nobody asks
    assert (
        len(cached_embeddings(PrecomputedTeacher(_save(tmp_path / "e.npy", broken)), corpus, tmp_path / "cache")) == 5
    )
    with pytest.raises(DataError, match="other texts need a model"):
        PrecomputedTeacher(tmp_path / "e.npy").embed(["a dog"])
    with pytest.raises(DataError, match="no file of embeddings"):
        PrecomputedTeacher(tmp_path / "f.npy")
    with pytest.raises(DataError, match="not '.txt'"):
        PrecomputedTeacher(tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1.0, 2.0], [1.0]]), "row 2: an embedding 1 wide, those before it are 2 wide"),
        (pa.array([[1.0, 2.0], None]), "row 2: no embedding"),
        (pa.array([None, [1.0]]), "row 1: no embedding"),
        (pa.array([[1.0, 2.0], [None, 2.0]]), "row 2: an embedding with a number missing"),
        (pa.array([1.0, 2.0]), "not a list of numbers"),
        (pa.array([["a"], ["b"]]), "not lists of numbers"),
    ],
)
def test_parquet_columns_that_hold_no_embeddings(tmp_path: Path, column: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"embedding": column}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=message):
        PrecomputedTeacher(tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"no column 'vector' \(columns: embedding\)"):
        PrecomputedTeacher(tmp_path / "e.parquet", "vector")


def test_several_teachers_as_one(tmp_path: Path, tiny_sentence_encoder: Path, tiny_encoder: Path) -> None:
    one, two = (SentenceTeacher(path, precision="fp32") for path in (tiny_sentence_encoder, tiny_encoder))
    normal = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one.embed(TEXTS), two.embed(TEXTS))]
    joined, mean = TeacherCombination([one, two]), TeacherCombination([one, two], "average")
    assert joined.width == 64 and mean.width == 32
    np.testing.assert_allclose(joined.embed(TEXTS), np.concatenate(normal, axis=1), atol=1e-6)
    np.testing.assert_allclose(mean.embed(TEXTS), (normal[0] + normal[1]) / 2, atol=1e-6)
    assert mean.fingerprint == TeacherCombination([two, one], "average").fingerprint
    assert joined.fingerprint != TeacherCombination([two, one]).fingerprint
    other = PrecomputedTeacher(_save(tmp_path / "e.npy", _rows()))
    assert TeacherCombination([one, other]).needs_rows
    with pytest.raises(ModelError, match=r"widths \[32, 5\] have no average"):
        TeacherCombination([one, other], "average")
    with pytest.raises(ConfigError, match="one teacher or more"):
        TeacherCombination([])


class _Counting:
    """A teacher that says how often it was asked, and breaks off after some texts."""

    name, width, needs_rows, fingerprint = "counting", 3, False, "f"

    def __init__(self, most: int = 10**6) -> None:
        self.asked: list[str] = []
        self.most = most

    def check_rows(self, rows: int) -> None:
        pass

    def embed(
        self, texts: Sequence[str], rows: np.ndarray | None = None, show_progress_bar: bool | None = None
    ) -> np.ndarray:
        if len(self.asked) + len(texts) > self.most:
            raise Stopped
        self.asked += texts
        return np.array([[len(text), text.count("a"), 1] for text in texts], dtype=np.float32)


def test_the_cache_goes_on_after_a_stop_and_asks_once(tmp_path: Path, corpus: TextCorpus) -> None:
    expected = _Counting().embed(list(corpus))
    stopped = _Counting(most=3)
    with pytest.raises(Stopped):
        cached_embeddings(stopped, corpus, tmp_path, chunk_texts=2, show_progress_bar=False)
    (place,) = [path for path in tmp_path.iterdir() if (path / "progress.json").is_file()]
    with pytest.raises(CacheError, match="no finished embeddings"):
        read_embeddings(place)
    second = _Counting()
    found = cached_embeddings(second, corpus, tmp_path, chunk_texts=1)
    asked = stopped.asked + second.asked
    assert sorted(asked) == sorted(corpus) and [len(text) for text in asked] == sorted(map(len, asked), reverse=True)
    np.testing.assert_array_equal(found, expected.astype(np.float16))
    assert isinstance(found, np.memmap) and not found.flags.writeable
    third = _Counting(most=0)
    np.testing.assert_array_equal(cached_embeddings(third, corpus, tmp_path), found)
    assert sorted(path.name for path in place.iterdir()) == ["embeddings.npy", "manifest.json"]


def test_a_cache_of_other_teachers_texts_and_formats_is_another(tmp_path: Path, corpus: TextCorpus) -> None:
    other = _Counting()
    other.fingerprint = "g"  # type: ignore[misc]
    for teacher, dtype in ((_Counting(), "fp16"), (_Counting(), "fp32"), (other, "fp16")):
        cached_embeddings(teacher, corpus, tmp_path / "cache", dtype=dtype)  # type: ignore[arg-type]
        assert teacher.asked
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_damaged_caches_are_refused_and_half_ones_begun_anew(tmp_path: Path, corpus: TextCorpus) -> None:
    cached_embeddings(_Counting(), corpus, tmp_path / "cache")
    (place,) = (tmp_path / "cache").iterdir()
    np.save(place / "embeddings.npy", np.zeros((2, 3), dtype=np.float16))
    with pytest.raises(CacheError, match=r"embeddings\.npy has 140 bytes"):
        cached_embeddings(_Counting(), corpus, tmp_path / "cache")
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["checksum"], manifest["checksums"]  # of an earlier version
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match=r"shape \(2, 3\)"):
        cached_embeddings(_Counting(), corpus, tmp_path / "cache")
    (place / "embeddings.npy").write_bytes(b"x")
    with pytest.raises(CacheError, match="damaged"):
        read_embeddings(place)
    (place / "manifest.json").write_text(json.dumps({"format": "x", "format_version": 1}))
    with pytest.raises(CacheError, match="something else"):
        read_embeddings(place)
    (place / "manifest.json").unlink()
    (place / "progress.json").write_text('{"done": 99}')
    np.testing.assert_array_equal(cached_embeddings(_Counting(), corpus, tmp_path / "cache")[:, 2], 1)


def test_embeddings_too_large_for_fp16_are_refused(tmp_path: Path, corpus: TextCorpus) -> None:
    teacher = PrecomputedTeacher(_save(tmp_path / "e.npy", 1e6 * _rows()))
    with pytest.raises(ModelError, match="teacher.dtype: fp32"):
        cached_embeddings(teacher, corpus, tmp_path / "cache")
    assert np.isfinite(cached_embeddings(teacher, corpus, tmp_path / "cache", dtype="fp32")).all()
