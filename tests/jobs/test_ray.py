"""Workers of a local Ray cluster: the same results, lost actors included. Needs the extra `ray`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.jobs.worker_jobs import Squares

from distilmatch.engine.scorer import Scorer
from distilmatch.engine.task_queue import Task
from distilmatch.errors import ConfigError, DataError, WorkerError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.running.ray import RayRunner
from distilmatch.models.dipair import DiPair

from .conftest import make_matcher

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def runner() -> Iterator[RayRunner]:
    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = root if before is None else f"{root}{os.pathsep}{before}"  # of the test's own jobs
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="warning")
    yield RayRunner(workers=2)
    ray.shutdown()
    del os.environ["PYTHONPATH"]
    if before is not None:
        os.environ["PYTHONPATH"] = before


def tasks(count: int) -> list[Task]:
    return [Task(number=i, payload=i, shown=f"task {i}") for i in range(count)]


def test_actors_that_are_killed_cost_their_task_only(runner: RayRunner, tmp_path: Path) -> None:
    job = Squares(str(tmp_path), deadly=((1, 2), (4, 1)))
    found = {task.number: result for task, result in runner.run(job, tasks(7))}
    assert found == {i: i**2 for i in range(7)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-0", "1-1", "4-0"]
    (tmp_path / "no").mkdir()
    with pytest.raises(WorkerError, match="task 1 has cost 3 workers"):
        list(runner.run(Squares(str(tmp_path / "no"), deadly=((1, 9),)), tasks(2)))
    with pytest.raises(DataError, match=r"^2 is no number$"):
        list(runner.run(Squares(str(tmp_path), wrong=(2,)), tasks(3)))


def test_the_output_is_that_of_one_process(
    runner: RayRunner, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_TEXTS", 16)
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_BATCHES", 1)
    make_matcher(tiny_encoder).save_pretrained(tmp_path / "student")
    model: DiPair = DiPair.from_pretrained(tmp_path / "student").eval()
    for side, count in enumerate((70, 90)):
        texts = [{"text": f"text {'very ' * (i % 7)}{i} {'ab'[side]}"} for i in range(count)]
        settings: dict[str, Any] = {"side": side, "batch_size": 4, "show_progress_bar": False}
        encode_table(model, texts, tmp_path / f"one{side}", **settings)
        encode_table(model, texts, tmp_path / f"ray{side}", **settings, runner=runner)
        one, by_ray = (
            {path.name: path.read_bytes() for path in (tmp_path / f"{name}{side}").iterdir() if path.name != ".lock"}
            for name in ("one", "ray")
        )
        assert one == by_ray
    sides = [tmp_path / f"one{side}" for side in (0, 1)]
    scorer = Scorer(model)
    match_folders(scorer, *sides, tmp_path / "one.parquet", top_k=5, show_progress_bar=False)
    match_folders(scorer, *sides, tmp_path / "ray.parquet", top_k=5, rows_a_part=20, runner=runner)
    assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / "ray.parquet"))


def test_no_cluster_is_said(runner: RayRunner) -> None:
    with pytest.raises(ConfigError, match="`workers` is 0"):
        RayRunner(workers=0)
    assert runner.name == "2 workers of a Ray cluster, 1 thread(s) each"
