"""The pictures show what was published: of the README, accuracy and speed of the same models, from one run."""

from __future__ import annotations

import json

from benchmarks.pages import out_of_memory, picture
from benchmarks.results import FOLDER


def test_each_point_is_one_models_accuracy_and_speed() -> None:
    metrics = json.loads((FOLDER / "quality_speed.json").read_text(encoding="utf-8"))["metrics"]
    drawn = {point.name.split("\n")[0]: (point.accuracy, point.pairs_per_s) for point in picture.points()}
    assert drawn.keys() >= {"teacher", "2-layer cross-encoder", "student, from text", "DE-FFNN", "cosine (DE-Cos)"}
    for model, name in (
        ("teacher", "teacher"),
        ("de_ffnn", "DE-FFNN"),
        ("tiny_cross_encoder", "2-layer cross-encoder"),
    ):
        assert drawn[name] == (metrics[f"{model}_accuracy"], metrics[f"{model}_pairs_per_s"])
    assert len(picture.points()) == len({(point.name, point.pairs_per_s) for point in picture.points()}) == 6


def test_the_picture_is_a_small_png() -> None:
    drawn = picture.render()
    assert drawn.startswith(b"\x89PNG") and len(drawn) < 80_000
    assert picture.TARGET.is_file()


def test_the_jobs_out_of_memory_are_drawn() -> None:
    drawn = out_of_memory.bars()
    assert len(drawn) == 6 and all(bar.seconds > 0 for bar in drawn)
    assert all((bar.kills > 0) == (bar.way == "killed_s") for bar in drawn)
    assert out_of_memory.render().startswith(b"\x89PNG") and out_of_memory.TARGET.is_file()
