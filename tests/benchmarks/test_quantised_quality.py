"""Every setting is scored on the same texts, and the reference is nothing away from itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.quantised_quality import REFERENCE, Pairs, all_logits, distinct, figures, largest_difference, students

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.native_module import native_module, runs_native
from distilmatch.models import DiPair
from distilmatch.store.codec import STORED_DTYPES

TASK = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))


def test_each_text_stands_once() -> None:
    texts, rows = distinct([("a", "x"), ("b", "x"), ("a", "a"), ("b", "y")])
    assert texts == (["a", "b"], ["x", "a", "y"])
    assert rows.tolist() == [[0, 0], [1, 0], [0, 1], [1, 2]]


def test_students_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no student_seed"):
        students(tmp_path)
    for name in ("student_seed10", "student_seed2", "student_4_8_seed0", "student_seed3"):
        (tmp_path / name / "run" / "student").mkdir(parents=True)
        if name != "student_seed3":  # not yet trained
            (tmp_path / name / "run" / "student" / "config.json").touch()
    assert list(students(tmp_path)) == [2, 10]
    assert students(tmp_path)[10] == tmp_path / "student_seed10" / "run" / "student"


def test_the_difference_is_in_standard_deviations_of_its_label() -> None:
    reference = np.array([[0.0, 0.0], [2.0, 20.0]])
    assert largest_difference(reference + [0.5, 1.0], reference) == 0.5
    assert largest_difference(reference + [0.5, -8.0], reference) == 0.8


def test_figures_of_every_setting(tiny_encoder: Path) -> None:
    # Texts of one left side have three rows, so that a swapped row would change the logits.
    shown = [(f"red car {'fast ' * (i % 5)}{i % 7}", f"blue boat {'slow ' * (i % 3)}{i}") for i in range(1100)]
    texts, rows = distinct(shown)
    gold = np.arange(len(rows)) % 3
    pairs = Pairs(
        name="toy",
        metric="accuracy",
        texts=texts,
        rows=rows,
        quality=lambda logits: float((logits.argmax(1) == gold).mean()),
    )
    by_seed = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        shape = StudentConfig(width=32, head_heads=2, kept_tokens=(3, 5), max_lengths=(24, 24), head_start="random")
        model = DiPair.from_encoder(tiny_encoder, shape, TASK).eval()
        torch.nn.init.normal_(model.classifier.weight, std=0.3)
        by_seed.append(all_logits(model, pairs))
        expected = model.logits(shown, show_progress_bar=False)
        np.testing.assert_allclose(by_seed[-1][REFERENCE], expected, atol=1e-4)
    kernels = ["torch"] + ["native"] * runs_native() + ["native-int8"] * (runs_native() and native_module().has_bytes())
    assert set(by_seed[0]) == {(dtype, kernel) for dtype in STORED_DTYPES for kernel in kernels}
    metrics = figures(pairs, by_seed)
    reference = metrics["toy_accuracy_float32_torch"]
    assert reference == pytest.approx(np.mean([pairs.quality(each[REFERENCE]) for each in by_seed]))
    largest = {dtype: metrics.get(f"toy_largest_logit_difference_{dtype}_torch", 0.0) for dtype in STORED_DTYPES}
    assert 0 == largest["float32"] < largest["float16"] < largest["bfloat16"] < largest["int8"]
    for dtype in STORED_DTYPES:
        for kernel in kernels:
            if (dtype, kernel) != REFERENCE:
                value = metrics[f"toy_accuracy_{dtype}_{kernel.replace('-', '_')}"]
                assert metrics[f"toy_accuracy_{dtype}_{kernel.replace('-', '_')}_difference"] == pytest.approx(
                    value - reference
                )
