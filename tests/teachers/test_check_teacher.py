"""A teacher that does not exist, cannot be loaded or does not fit is refused from its folder alone, in one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distilmatch.config.pairs import TeacherConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, DistilmatchError, ModelError
from distilmatch.teachers import CrossEncoderTeacher, SentenceTeacher, check_teacher, ensemble, load_teacher

CLASSES = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))


def _named(folder: Path, names: tuple[str, ...], tmp_path: Path) -> Path:
    place = tmp_path / "-".join(names)
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_what_fits_passes_and_no_weights_are_loaded(
    tiny_cross_encoder: Path, tiny_cross_encoder_3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "CrossEncoderTeacher", lambda *_, **__: pytest.fail("it was loaded"))
    check_teacher(TeacherConfig(models=(str(tiny_cross_encoder),), max_length=64), TaskConfig(kind="binary"))
    check_teacher(TeacherConfig(models=(str(tiny_cross_encoder_3),)), CLASSES)
    turned = _named(tiny_cross_encoder_3, ("yes", "no", "maybe"), tmp_path)
    check_teacher(TeacherConfig(models=(str(tiny_cross_encoder_3), str(turned))), CLASSES)


def test_what_does_not_fit_is_refused(
    tiny_cross_encoder: Path, tiny_cross_encoder_3: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    def refused(model: Path, task: TaskConfig, message: str, **more: Any) -> None:
        with pytest.raises(DistilmatchError, match=message):
            check_teacher(TeacherConfig(models=(str(tiny_cross_encoder), str(model)), **more), task)

    binary = TaskConfig(kind="binary")
    refused(tiny_cross_encoder_3, binary, r"gives 3 label\(s\), the task binary needs 1")
    refused(tiny_cross_encoder, CLASSES, r"gives 1 label\(s\), the task classification needs 3 \(no, maybe, yes\)")
    refused(tiny_encoder, binary, "without a trained classification head")
    refused(tiny_cross_encoder, binary, "between 4 and 64", max_length=65)
    refused(tmp_path / "none", binary, "no model folder")
    other = _named(tiny_cross_encoder_3, ("a", "b", "c"), tmp_path)
    with pytest.raises(ConfigError) as error:
        check_teacher(TeacherConfig(models=(str(other),)), CLASSES)
    assert "['a', 'b', 'c']" in str(error.value) and "['no', 'maybe', 'yes']" in str(error.value)


_BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "broken config": lambda folder: (folder / "config.json").write_text("{"),
    "deep config": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "config of nothing": lambda folder: (folder / "config.json").write_text("[]"),
    "unknown kind": lambda folder: (folder / "config.json").write_text('{"model_type": "no-such-kind"}'),
    "cut weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:1000]
    ),
    "wide beyond reason": lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"hidden_size": 32', '"hidden_size": "wide"')
    ),
}


@pytest.mark.parametrize("how", [*_BROKEN, "pickled weights", "a file", "code of its own"])
def test_folders_that_cannot_be_loaded_are_refused(how: str, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(tiny_cross_encoder, folder)
    if how in _BROKEN:
        _BROKEN[how](folder)
    elif how == "pickled weights":
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("x")
    else:
        config = json.loads((folder / "config.json").read_text()) | {
            "model_type": "own",
            "auto_map": {"AutoConfig": "c.C"},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "c.py").write_text("raise SystemExit('it ran')")
    config = TeacherConfig(models=(str(folder),))
    for use in (
        lambda: check_teacher(config, TaskConfig(kind="binary")),
        lambda: load_teacher(config),
        lambda: CrossEncoderTeacher(folder),
    ):
        with pytest.raises((ConfigError, ModelError)) as error:
            use()
        assert len(str(error.value).splitlines()) == 1


def test_a_sentence_encoder_is_no_cross_encoder(tiny_sentence_encoder: Path) -> None:
    config = TeacherConfig(models=(str(tiny_sentence_encoder),))
    for use in (lambda: check_teacher(config, TaskConfig(kind="binary")), lambda: load_teacher(config)):
        with pytest.raises(ModelError, match="without a trained classification head"):
            use()


def test_a_sentence_encoder_whose_tokenizer_cannot_pad_works(tiny_sentence_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_sentence_encoder, folder)
    (path,) = folder.rglob("tokenizer_config.json")
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    texts = ["a", "the red car", "a small house by the river"]
    whole, found = (SentenceTeacher(place, precision="fp32").embed(texts) for place in (tiny_sentence_encoder, folder))
    assert found == pytest.approx(whole, abs=1e-5)


def test_a_tokenizer_that_cannot_pad_is_refused_or_needs_it_not(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(tiny_cross_encoder, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pairs = [("a", "the red car"), ("a small house by the river", "b")]
    whole = CrossEncoderTeacher(tiny_cross_encoder, precision="fp32").logits(pairs)
    found = CrossEncoderTeacher(folder, precision="fp32")  # the model's own padding token does
    assert found.logits(pairs) == pytest.approx(whole, abs=1e-5)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    with pytest.raises(ModelError, match="no padding token"):
        CrossEncoderTeacher(folder)
