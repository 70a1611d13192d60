"""The Spark recipe of the documentation, on a local Spark: scores are those of the student. Needs pyspark and Java."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.docs.pages import ROOT, blocks, run

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models.dipair import DiPair

pytestmark = pytest.mark.spark


def test_the_recipe_scores_a_table(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql", reason="needs pyspark")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    student = DiPair.from_encoder(
        tiny_encoder,
        StudentConfig(max_lengths=(24, 32), kept_tokens=(3, 4), width=16, side_names=("query", "product")),
        TaskConfig(kind="binary"),
    )
    student.save_pretrained(tmp_path / "run" / "student")
    names: dict[str, object] = {"__name__": "__main__"}
    code = next(block.code for block in blocks(ROOT / "docs" / "how-to" / "many-machines.md", "python"))
    run(code.replace('"run/student"', repr(str(tmp_path / "run" / "student"))), "recipe", names)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    pairs = pd.DataFrame(
        {"query": [f"red boat {i}" for i in range(20)], "product": [f"blue car {i}" for i in range(20)]}
    )
    spark = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        columns = "query string, product string, score float"
        found = spark.createDataFrame(pairs).repartition(2).mapInPandas(names["scored"], columns).toPandas()
    finally:
        spark.stop()
    expected = pairs.assign(score=student.predict(list(zip(pairs["query"], pairs["product"], strict=True))))
    both = expected.merge(found, on=["query", "product"])
    assert len(both) == 20
    np.testing.assert_allclose(both["score_x"], both["score_y"], atol=1e-5)
