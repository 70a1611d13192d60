"""A teacher's dtype, device and revision: what the loaders are handed, and what labels are kept under."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from tests.helpers import call, write_jsonl

import distilmatch.pretrained.sentence as loading
from distilmatch import CrossEncoderTeacher, PairRecipe, SentenceTeacher, SoftLabelCache, TaskConfig, TeacherConfig
from distilmatch.cli.train import _teacher_options
from distilmatch.config import EmbeddingTeacherConfig, FineTuneConfig
from distilmatch.errors import ConfigError
from distilmatch.teachers import load_embedding_teacher, load_teacher, loaded_teacher
from distilmatch.training.pairs.run import RunFolder
from distilmatch.training.pairs.starts import possible_starts

PAIRS = [("a red car", "the red car"), ("a blue coat", "a big dog and a small cat"), ("one", "two")]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_half_precision_teacher_labels_nearly_the_same_under_a_key_of_its_own(
    dtype: Any, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    exact = CrossEncoderTeacher(tiny_cross_encoder, precision="fp32", device="cpu")
    assert exact.model.dtype == torch.float32
    half = load_teacher(TeacherConfig(models=(str(tiny_cross_encoder),), dtype=dtype), device="cpu")
    assert isinstance(half, CrossEncoderTeacher) and half.model.dtype == DTYPES[dtype]
    np.testing.assert_allclose(half.logits(PAIRS), exact.logits(PAIRS), atol=0.05)
    assert half.fingerprint != exact.fingerprint
    cache = SoftLabelCache(tmp_path / "labels")
    cache.label(exact, PAIRS)
    assert cache.count(exact, PAIRS) == 3 and cache.count(half, PAIRS) == 0
    again = CrossEncoderTeacher(tiny_cross_encoder, precision="fp32", device="cpu", dtype="fp32")
    assert again.fingerprint == exact.fingerprint


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_half_precision_sentence_teacher_embeds_nearly_the_same(dtype: Any, tiny_sentence_encoder: Path) -> None:
    exact = SentenceTeacher(tiny_sentence_encoder, precision="fp32", device="cpu")
    config = EmbeddingTeacherConfig(models=(str(tiny_sentence_encoder),), model_dtype=dtype)
    half = load_embedding_teacher(config, device="cpu")
    texts = [left for left, _ in PAIRS]
    np.testing.assert_allclose(half.embed(texts), exact.embed(texts), atol=0.03)
    assert half.fingerprint != exact.fingerprint


def test_the_device_of_the_teacher_is_its_own(tiny_cross_encoder: Path, tiny_sentence_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="device 'moon' is not known"):
        load_teacher(TeacherConfig(models=(str(tiny_cross_encoder),), device="moon"), device="cpu")
    with pytest.raises(ConfigError, match="device 'moon' is not known"):
        load_embedding_teacher(
            EmbeddingTeacherConfig(models=(str(tiny_sentence_encoder),), device="moon"), device="cpu"
        )
    meta = load_teacher(TeacherConfig(models=(str(tiny_cross_encoder),), device="cpu"), device="moon")
    assert isinstance(meta, CrossEncoderTeacher) and meta.model.device.type == "cpu"


@pytest.fixture
def handed(
    monkeypatch: pytest.MonkeyPatch, tiny_cross_encoder: Path, tiny_sentence_encoder: Path
) -> list[dict[str, Any]]:
    """What the classes of sentence-transformers are handed for a name of the hub, which local folders stand for."""
    seen: list[dict[str, Any]] = []
    folders = {CrossEncoder: str(tiny_cross_encoder), SentenceTransformer: str(tiny_sentence_encoder)}

    def resolved(name: str, cache_folder: Any = None, token: Any = None, revision: str | None = None) -> str:
        seen.append({"asked": str(name), "revision": revision})
        return "owner/name"

    def stand_in(kind: type) -> Any:
        made = kind.__init__

        def initialise(self: Any, name: Any = None, **settings: Any) -> None:
            if name == "owner/name":
                seen.append({"loaded": name, "revision": settings["revision"], **settings["model_kwargs"]})
                name, settings["revision"] = folders[kind], None
            made(self, name, **settings)

        return initialise

    monkeypatch.setattr(loading, "resolve_model", resolved)
    for kind in folders:
        monkeypatch.setattr(kind, "__init__", stand_in(kind))
    return seen


def test_the_revision_is_handed_to_the_loaders(handed: list[dict[str, Any]]) -> None:
    CrossEncoderTeacher("owner/name", revision="v1.2", dtype="bf16", device="cpu")
    SentenceTeacher("owner/name", revision="0123abc", device="cpu")
    weights = {"use_safetensors": True}
    assert handed == [
        {"asked": "owner/name", "revision": "v1.2"},
        {"loaded": "owner/name", "revision": "v1.2", "dtype": torch.bfloat16} | weights,
        {"asked": "owner/name", "revision": "0123abc"},
        {"loaded": "owner/name", "revision": "0123abc", "dtype": torch.float32} | weights,
    ]
    handed.clear()
    load_teacher(TeacherConfig(models=("owner/name", "owner/name"), revision=("a", None)), device="cpu")
    load_embedding_teacher(EmbeddingTeacherConfig(models=("owner/name",), revision="b"), device="cpu")
    assert [entry["revision"] for entry in handed if "loaded" in entry] == ["a", None, "b"]


def test_a_folder_has_no_revision(tiny_cross_encoder: Path, tiny_sentence_encoder: Path, tmp_path: Path) -> None:
    for load in (
        lambda: CrossEncoderTeacher(tiny_cross_encoder, revision="main"),
        lambda: SentenceTeacher(tiny_sentence_encoder, revision="main"),
        lambda: load_teacher(TeacherConfig(models=(str(tiny_cross_encoder),), revision="main")),
    ):
        with pytest.raises(ConfigError, match="is a folder here, which has no revision 'main': leave `revision` out"):
            load()
    table = write_jsonl(tmp_path / "t.jsonl", [{"a": "x", "b": "y", "label": i % 2} for i in range(4)])
    given = ["--label-column", "label", "--base-model", tiny_cross_encoder, "--revision", "main"]
    assert call("finetune-teacher", table, "--task", "binary", *given, "--output", tmp_path / "teacher") == 1


def test_a_revision_that_is_not_here_is_named_offline() -> None:
    with pytest.raises(ConfigError, match=r"'some/teacher' \(revision v9\) is neither"):
        CrossEncoderTeacher("some/teacher", revision="v9")
    with pytest.raises(ConfigError, match=r"'all-MiniLM-L6-v2' \(revision v9\) is neither"):
        CrossEncoderTeacher("all-MiniLM-L6-v2", revision="v9")


def test_a_loaded_model_takes_no_settings_of_loading(tiny_cross_encoder: Path, tiny_sentence_encoder: Path) -> None:
    model = CrossEncoder(str(tiny_cross_encoder), device="cpu")
    encoder = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    with pytest.raises(ConfigError, match="has its weights already: leave `dtype` out"):
        CrossEncoderTeacher(model, dtype="bf16")
    with pytest.raises(ConfigError, match="leave `revision` out"):
        SentenceTeacher(encoder, revision="main")
    task = TaskConfig(kind="binary")
    for setting in ({"dtype": "bf16"}, {"revision": "v1"}, {"device": "cpu"}):
        with pytest.raises(ConfigError, match=f"leave `(teacher.)?{next(iter(setting))}` out"):
            loaded_teacher(model, task, TeacherConfig(models=("in memory",), **setting))


def test_settings_that_cannot_be_are_refused(tiny_cross_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="one commit or tag for each of the 2 `models`"):
        TeacherConfig(models=("a/b", "c/d"), revision=("v1",))
    with pytest.raises(ConfigError, match="one commit or tag for each of the 1 `models`"):
        EmbeddingTeacherConfig(models=("a/b",), revision=("v1", "v2"))
    with pytest.raises(ConfigError, match="must be one of auto, fp32, bf16, fp16, not 'int8'"):
        TeacherConfig(models=("a/b",), dtype="int8")
    with pytest.raises(ConfigError, match="`dtype` must be one of auto, fp32, bf16, fp16, not 'half'"):
        CrossEncoderTeacher(tiny_cross_encoder, dtype="half")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be one of auto, fp32, bf16, not 'fp16'"):
        FineTuneConfig(dtype="fp16")
    assert TeacherConfig.from_dict({"models": "a/b", "revision": "v1"}).revision == ("v1",)
    assert TeacherConfig.from_dict({"models": ["a/b", "c"], "revision": ["v1", None]}).revision == ("v1", None)


def test_what_labels_depend_on_is_in_the_key_of_the_transfer_set(tmp_path: Path, tiny_encoder: Path) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", [{"a": "x", "b": "y"}])

    def key(**teacher: Any) -> str:
        settings = {"models": ["owner/name"]} | teacher
        recipe = PairRecipe.from_dict(
            {"train": str(table), "output": str(tmp_path / "run"), "task": {"kind": "binary"}, "teacher": settings}
        )
        return RunFolder(recipe).transfer_fingerprint()

    keys = [key(), key(dtype="bf16"), key(dtype="fp16"), key(revision="v1"), key(revision="v2")]
    assert len(set(keys)) == 5 and key(device="cpu") == keys[0]


def test_a_run_goes_on_with_its_teacher_on_another_device(tmp_path: Path) -> None:
    settings = {"train": "t.jsonl", "output": str(tmp_path), "task": {"kind": "binary"}}
    run = RunFolder(PairRecipe.from_dict(settings | {"teacher": {"models": ["owner/name"]}}))
    run.claim()
    (tmp_path / "stage1").mkdir()
    moved = PairRecipe.from_dict(settings | {"teacher": {"models": ["owner/name"], "device": "cpu"}})
    RunFolder(moved).check()
    other = PairRecipe.from_dict(settings | {"teacher": {"models": ["owner/name"], "revision": "v1"}})
    with pytest.raises(ConfigError, match="different: teacher"):
        RunFolder(other).check()


def test_the_student_does_not_start_from_a_revision(tmp_path: Path) -> None:
    teacher = {"models": ["owner/name"], "revision": "v1"}
    settings = {"train": "t", "output": str(tmp_path), "task": {"kind": "binary"}, "teacher": teacher, "dev": "d"}
    assert possible_starts(PairRecipe.from_dict(settings)) == ("encoder",)
    with pytest.raises(ConfigError, match="this teacher is of a revision"):
        possible_starts(PairRecipe.from_dict(settings | {"start": "teacher"}))


def test_what_follows_training_names_the_same_weights(tmp_path: Path) -> None:
    settings = {"train": "t", "output": str(tmp_path), "task": {"kind": "binary"}}
    teacher = {"models": ["a/b", "c/d"], "revision": ["v1", "v2"], "dtype": "bf16"}
    expected = ["--teacher", "a/b,c/d", "--teacher-dtype", "bf16", "--teacher-revision", "v1,v2"]
    assert _teacher_options(PairRecipe.from_dict(settings | {"teacher": teacher})) == expected
    assert _teacher_options(PairRecipe.from_dict(settings | {"teacher": {"models": ["a/b"]}})) == ["--teacher", "a/b"]


def test_the_commands_take_them(tmp_path: Path, tiny_cross_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": f"a red car {i}", "b": "the car", "label": i % 2} for i in range(12)]
    table, place = write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "teacher"
    given = ["--label-column", "label", "--base-model", tiny_cross_encoder, "--epochs", "1", "--max-length", "32"]
    more = ["--dtype", "bf16", "--device", "cpu", "--dev", table]
    assert call("finetune-teacher", table, "--task", "binary", *given, *more, "--output", place) == 0
    assert json.loads((place / "fine_tuning.json").read_text())["config"]["dtype"] == "bf16"
    assert CrossEncoder(str(place), device="cpu").dtype == torch.bfloat16
    teacher = CrossEncoderTeacher(place, device="cpu", precision="fp32")
    assert np.isfinite(teacher.logits(PAIRS)).all()
    capsys.readouterr()
    assert call("evaluate", "x", table, "--teacher-dtype", "bf16", "--output", tmp_path / "r") == 1
    assert "need a --teacher" in capsys.readouterr().err
