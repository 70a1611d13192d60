"""A student's folder is what was saved, fits itself and holds numbers, or it is refused by name; nothing of it is believed."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers import interrupt

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import CacheError, DistilmatchError, ModelError
from distilmatch.files import checksum
from distilmatch.models import DiPair, integrity
from distilmatch.models.integrity import read_checksums, verify_student
from distilmatch.pretrained.weights import check_finite_weights

PAIRS = [("red car", "a big blue house"), ("old tea", "the dog runs")]


def _student(encoder: Path, **changes: Any) -> DiPair:
    shape = StudentConfig(**{"max_lengths": (16, 16), "kept_tokens": (3, 4), "width": 16, **changes})
    return DiPair.from_encoder(encoder, shape, TaskConfig(kind="binary"))


@pytest.fixture(scope="module")
def original(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "student"
    torch.manual_seed(0)
    _student(tiny_encoder).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "student"))


def test_checksums_cover_what_is_read(original: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    files = read_checksums(original)
    assert files == {name: checksum(original / name) for name in files or ()}
    assert set(files or ()) == {path.name for path in original.iterdir()} - {"README.md", "checksums.json"}
    assert verify_student(original) == []
    _student(tiny_encoder, shared_encoder=False).save_pretrained(tmp_path)
    assert {"tokenizer_1/tokenizer.json", "tokenizer_1/tokenizer_config.json", "tokenizer.json"} <= set(
        read_checksums(tmp_path) or ()
    )
    assert verify_student(tmp_path) == []


def test_checksums_are_written_last(original: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(original, tmp_path / "student")
    model = _student(tiny_encoder, kept_tokens=(2, 2))
    monkeypatch.setattr("distilmatch.models.dipair.write_checksums", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "student")
    with pytest.raises(ModelError, match="is not what was saved"):
        DiPair.from_pretrained(tmp_path / "student")


def _flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(bytes(content))


def _cut(file: Path, draw: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])


def _append(file: Path, draw: random.Random) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def _swap(file: Path, draw: random.Random) -> None:
    other = draw.choice(
        [path for path in sorted(file.parent.iterdir()) if path not in (file, file.parent / "README.md")]
    )
    content = file.read_bytes(), other.read_bytes()
    file.write_bytes(content[1])
    other.write_bytes(content[0])


def _delete(file: Path, draw: random.Random) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [_flip, _cut, _append, _swap, _delete])
def test_every_single_damage_is_found(original: Path, tmp_path: Path, damage: Callable[..., None]) -> None:
    draw = random.Random(damage.__name__)
    names = sorted(path.name for path in original.iterdir() if path.name != "README.md")
    for round_, name in enumerate(names * 3):
        folder = Path(shutil.copytree(original, tmp_path / f"{round_}"))
        damage(folder / name, draw)
        if not (folder / "checksums.json").is_file():
            np.testing.assert_array_equal(DiPair.from_pretrained(folder).logits(PAIRS).shape, (2, 1))
            continue
        with pytest.raises(ModelError) as refused:
            DiPair.from_pretrained(folder)
        assert str(folder) in str(refused.value)
        assert verify_student(folder) != []
        shutil.rmtree(folder)


def test_files_of_another_student_are_refused(folder: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    _student(tiny_encoder, head_start="random").save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model.safetensors is not what was saved .* another student's"):
        DiPair.from_pretrained(folder)


def test_a_file_is_read_once_a_process_and_again_when_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(integrity, "checksum", lambda path: read.append(Path(path).name) or checksum(path))
    DiPair.from_pretrained(folder)
    assert sorted(read) == sorted(read_checksums(folder) or ())
    DiPair.from_pretrained(folder)
    assert len(read) == len(set(read))
    path = folder / "model.safetensors"
    times = path.stat()
    _flip(path, random.Random(3))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy that keeps the times
    with pytest.raises(ModelError, match="is not what was saved"):
        DiPair.from_pretrained(folder)


def test_a_folder_without_checksums_opens_and_that_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = DiPair.from_pretrained(folder).logits(PAIRS)
    (folder / "checksums.json").unlink()
    assert read_checksums(folder) is None and verify_student(folder) == []
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            np.testing.assert_array_equal(DiPair.from_pretrained(folder).logits(PAIRS), expected)
    assert sum("used unchecked" in record.message for record in caplog.records) == 1


def test_an_edited_model_card_is_no_damage(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    DiPair.from_pretrained(folder)
    assert verify_student(folder) == []


@pytest.mark.parametrize("names", [["/dev/zero"], ["../x"], ["a/../../b"]])
def test_checksums_name_no_file_outside(folder: Path, names: list[str]) -> None:
    (folder / "checksums.json").write_text(
        json.dumps({"method": "xxh3-128", "files": dict.fromkeys(names, "0")}, indent=2) + "\n"
    )
    with pytest.raises(ModelError, match=r"checksums.json is damaged"):
        DiPair.from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "head_inputs.0.norm.weight"
    weights[name][5] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "checksums.json").unlink()
    with pytest.raises(ModelError, match=f"weights {name} hold NaN or Inf"):
        DiPair.from_pretrained(folder)
    (problem,) = verify_student(folder)
    assert name in problem


def test_numbers_at_the_end_of_a_dtype_are_numbers() -> None:
    check_finite_weights("x", {"a": torch.full((100,), 6e4, dtype=torch.float16), "b": torch.full((9,), 3e38)})
    with pytest.raises(ModelError, match="weights b hold"):
        check_finite_weights("x", {"b": torch.tensor([3e38, 3e38, float("inf")])})


# --- what a config says of itself ----------------------------------------------------------------------------------


def _config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))
    (folder / "checksums.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["student"].update(width=10**12), "asks for|overflowed"),
        (lambda c: c["student"].update(width=20), "asks for .* in the weights it is"),
        (lambda c: c["student"].update(kept_tokens=[10**9, 10**9], max_lengths=[10**9, 10**9]), "asks for|tokens"),
        (lambda c: c["student"].update(max_lengths=[10**6, 10**6]), "its encoder takes 64"),
        (lambda c: c["student"].update(head_layers=10**9), "beyond what can be built"),
        (lambda c: c["student"].update(head_layers=3), "lacks .* weights"),
        (lambda c: c["student"].update(head="nothing"), "cannot load a student"),
        (lambda c: c["encoders"][0].update(num_hidden_layers=10**12), "beyond what can be built"),
        (lambda c: c["encoders"][0].update(hidden_size=10**12), ""),
        (lambda c: c["encoders"][0].update(num_labels=10**9), "beyond what can be built"),
        (lambda c: c["encoders"][0].update(model_type="no-such"), "cannot load a student"),
        (lambda c: c["encoders"][0].update(vocab_size=10**11), "asks for"),
        (lambda c: c.update(encoders=[]), ""),
        (lambda c: c.update(encoders="bert"), ""),
        (lambda c: c.update(encoders=[[[]]]), ""),
        (lambda c: c.update(student=7), ""),
        (lambda c: c.update(task={"kind": "classification", "classes": ["a", "b", "c"]}), "asks for classifier"),
        (lambda c: c.update(unused_weights=[1]), ""),
        (lambda c: c.update(unused_weights=["encoders.0.nothing"]), "no such weight"),
        (lambda c: c.update(model_type="bert"), "not a DiPair"),
        (lambda c: c.update(model_type=["bert"]), "not known"),
        (lambda c: c.update(model_type="dipar"), "did you mean 'dipair'"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _config(folder, change)
    with pytest.raises(ModelError, match=message) as refused:
        DiPair.from_pretrained(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "null", "[]", "7", '"x"', "\x00", '{"model_type": 1e999}']
)
def test_a_config_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    (folder / "checksums.json").unlink()
    with pytest.raises(ModelError, match="config.json"):
        DiPair.from_pretrained(folder)
    assert len(verify_student(folder)) == 1


_WILD: list[Any] = [
    0, 1, -1, 7, 10**6, 10**9, 10**12, 2**63, 10**30, 0.5, 1e300, float("nan"), None, True, "", "x", [], [1], {}, [[1]],
    ["a"] * 3, [10**9] * 2, {"model_type": "t5"}, "A" * 10_000, [0] * 10_000,
]  # fmt: skip


def _places(settings: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list) else ()
    )
    return [found for key, value in inside for found in [(*place, key), *_places(value, (*place, key))]]


def test_wild_values_anywhere_in_a_config_give_scores_or_a_refusal(folder: Path) -> None:
    draw = random.Random(0)
    settings = (folder / "config.json").read_text()
    places = _places(json.loads(settings))
    opened = refused = 0
    for _ in range(150):
        changed: Any = json.loads(settings)
        *before, last = draw.choice(places)
        owner = changed
        for key in before:
            owner = owner[key]
        owner[last] = draw.choice(_WILD)
        (folder / "config.json").write_text(json.dumps(changed))
        (folder / "checksums.json").unlink(missing_ok=True)
        try:
            scores = DiPair.from_pretrained(folder).predict([("red", "car"), ("red " * 40, "old tea")])
            assert np.isfinite(scores).all()
            opened += 1
        except DistilmatchError:
            refused += 1
    assert opened > 10 and refused > 50


# --- weights and tokenizers in other forms -------------------------------------------------------------------------


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled(folder: Path) -> None:
    _without_weights(folder)
    torch.save({}, folder / "pytorch_model.bin")


def _lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["head.layers.0.query.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _of_other_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.layers.0.query.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _cut_short(folder: Path) -> None:
    _cut(folder / "model.safetensors", random.Random(1))


def _wild_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 7}')


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_weights, "holds no weights"),
        (_pickled, "pickle .pytorch_model.bin."),
        (_lacking, "lacks 1 weights .* head.layers.0.query.weight"),
        (_of_other_shape, "asks for head.layers.0.query.weight"),
        (_cut_short, "cut short or damaged"),
        (_wild_tokenizer, "cannot load a student"),
        (_no_tokenizer, "cannot load a student"),
    ],
)
def test_other_damage_without_checksums_is_told_in_a_line(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    (folder / "checksums.json").unlink()
    damage(folder)
    with pytest.raises(ModelError, match=message):
        DiPair.from_pretrained(folder)


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_student_is_not_saved_over_a_file(original: Path, tmp_path: Path) -> None:
    model = DiPair.from_pretrained(original)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CacheError, match="cannot write"):
        model.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    model.save_pretrained(tmp_path / "new" / "student")
    assert verify_student(tmp_path / "new" / "student") == []
    model.save_pretrained(tmp_path / "new" / "student")
    assert verify_student(tmp_path / "new" / "student") == []


def test_verify_tells_every_damaged_file(folder: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        _flip(folder / name, random.Random(0))
    (folder / "config.json").unlink()
    problems = verify_student(folder)
    assert len(problems) == 3
    assert all(
        any(name in problem for problem in problems) for name in ("model.safetensors", "tokenizer.json", "config")
    )
    assert len(verify_student(folder / "nowhere")) == 1
