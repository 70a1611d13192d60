"""A match and an encode by several processes: the output of one process, killed workers and drivers included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.engine.grid import Grid
from distilmatch.engine.ranking import best_first
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.matching.spread import StripFiles, merged_as_tree
from distilmatch.jobs.matching.strips import StripResult
from distilmatch.jobs.running.base import Results
from distilmatch.jobs.running.local import LocalRunner
from distilmatch.jobs.running.opened import student_place
from distilmatch.jobs.running.texts import EncodeJob, chunks_of
from distilmatch.models.dipair import DiPair

from .conftest import make_matcher


class Here:
    """A runner in this process, which does tasks that may come in any order backwards."""

    def __init__(self, workers: int, stop_after: int | None = None, backwards: bool = True) -> None:
        self.workers, self.name, self.stop_after, self.backwards = workers, "here", stop_after, backwards

    def run(self, job: Any, tasks: Any, ahead: int | None = None) -> Results:
        work = job.open(0)
        in_any_order = self.backwards and ahead is None
        for done, task in enumerate(reversed(list(tasks)) if in_any_order else tasks):
            if done == self.stop_after:
                raise KeyboardInterrupt
            yield task, work(task.payload)


@pytest.fixture(scope="module")
def saved(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> DiPair:
    place = tmp_path_factory.mktemp("student")
    make_matcher(tiny_encoder).save_pretrained(place)
    model: DiPair = DiPair.from_pretrained(place).eval()
    return model


@pytest.fixture(scope="module")
def folders(saved: DiPair, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    places = [tmp_path_factory.mktemp("sides") / str(side) for side in (0, 1)]
    for side, (place, count) in enumerate(zip(places, (70, 90), strict=True)):
        texts = [{"text": f"text {'very ' * (i % 7)}{i} {'ab'[side]}"} for i in range(count)]
        encode_table(saved, texts, place, side=side, show_progress_bar=False)
    return places


@pytest.fixture(scope="module")
def one(saved: DiPair, folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("one") / "one.parquet"
    match_folders(Scorer(saved), *folders, output, top_k=5, show_progress_bar=False)
    return pq.read_table(output)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_finds_what_one_process_finds(
    saved: DiPair, folders: list[Path], one: Any, tmp_path: Path, workers: int
) -> None:
    output = tmp_path / "best.parquet"
    report = match_folders(Scorer(saved), *folders, output, top_k=5, runner=Here(workers), rows_a_part=25)
    assert pq.read_table(output).equals(one)
    assert report.pairs == 70 * 90 and report.rows == 350
    assert report.read_over_least is not None and report.read_over_least * workers >= 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["best.parquet"]


def test_the_plain_kernel_is_shown_the_same_blocks_by_any_workers(
    saved: DiPair, folders: list[Path], one: Any, tmp_path: Path
) -> None:
    tables = []
    for workers in (1, 3):
        output = tmp_path / f"{workers}.parquet"
        match_folders(Scorer(saved, kernel="torch"), *folders, output, top_k=5, runner=Here(workers))
        tables.append(pq.read_table(output))
    assert tables[0].equals(tables[1])
    match_folders(Scorer(saved, kernel="torch"), *folders, tmp_path / "one.parquet", top_k=5)
    np.testing.assert_allclose(
        tables[0]["logit"].to_numpy(), pq.read_table(tmp_path / "one.parquet")["logit"].to_numpy(), atol=1e-5
    )


def test_a_stopped_match_goes_on_with_the_strips_that_are_done(
    saved: DiPair, folders: list[Path], one: Any, tmp_path: Path
) -> None:
    output = tmp_path / "best.parquet"
    settings: dict[str, Any] = {"top_k": 5, "rows_a_part": 20, "show_progress_bar": False}
    done = 0
    for workers, more in ((2, 5), (3, 9)):  # other workers go on by the cut of the first
        with pytest.raises(KeyboardInterrupt):
            match_folders(Scorer(saved), *folders, output, runner=Here(workers, stop_after=more), **settings)
        done += more
        parts = tmp_path / "best.parquet.parts"
        assert len(list(parts.glob("strip-*.safetensors"))) == done
    with pytest.raises(CacheError, match="parts of another job"):
        match_folders(Scorer(saved), *folders, output, top_k=4, runner=Here(2))
    strip = sorted(parts.glob("strip-*.safetensors"))[0]
    whole = strip.read_bytes()
    strip.write_bytes(whole[:-3] + b"abc")
    with pytest.raises(CacheError, match=rf"{strip.name} is damaged"):
        match_folders(Scorer(saved), *folders, output, runner=Here(1), **settings)
    strip.write_bytes(whole)
    match_folders(Scorer(saved), *folders, output, runner=Here(1), **settings)
    assert pq.read_table(output).equals(one)


def test_one_process_goes_on_after_the_parts_of_several(
    saved: DiPair, folders: list[Path], one: Any, tmp_path: Path
) -> None:
    output = tmp_path / "best.parquet"
    runner = Here(2, stop_after=20, backwards=False)
    with pytest.raises(KeyboardInterrupt):
        match_folders(Scorer(saved), *folders, output, top_k=5, runner=runner, rows_a_part=20)
    assert len(list((tmp_path / "best.parquet.parts").glob("part-*"))) == 2
    match_folders(Scorer(saved), *folders, output, top_k=5, rows_a_part=20)
    assert pq.read_table(output).equals(one)


def test_what_several_workers_do_not_do_is_refused(
    saved: DiPair, folders: list[Path], tiny_encoder: Path, tmp_path: Path
) -> None:
    for more in ({"threshold": 0.5}, {"top_k": 3, "num_candidates": 5}):
        with pytest.raises(ConfigError, match="several workers find the best of each left item"):
            match_folders(Scorer(saved), *folders, tmp_path / "x.parquet", runner=Here(2), **more)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="save it"):
        student_place(make_matcher(tiny_encoder))
    job = replace(EncodeJob.of(saved, 0, 8, "fp32"), weights="others")
    with pytest.raises(ModelError, match="a worker found another student in"):
        job.open(0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_workers_and_a_killed_driver(saved: DiPair, folders: list[Path], one: Any, tmp_path: Path) -> None:
    output = tmp_path / "best.parquet"
    code = (
        "import sys, pathlib\nfrom distilmatch import DiPair, Scorer, match_folders\n"
        "from distilmatch.jobs.running.local import LocalRunner\n"
        "if __name__ == '__main__':\n"
        "    scorer = Scorer(DiPair.from_pretrained(sys.argv[1]).eval(), memory_bytes=int(sys.argv[5]))\n"
        "    match_folders(scorer, *sys.argv[2:5], top_k=5, rows_a_part=20, runner=LocalRunner(1, 1))\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    scorer = Scorer(saved)
    words = [saved.name_or_path, *map(str, folders), str(output), str(scorer.memory_bytes)]
    driver = subprocess.Popen([sys.executable, str(script), *words])
    parts = tmp_path / "best.parquet.parts"
    deadline = time.time() + 120
    while not list(parts.glob("strip-*")) and time.time() < deadline:
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    runner = LocalRunner(1, threads=1)

    def kill_one() -> None:
        while not runner.processes:
            time.sleep(0.01)
        os.kill(runner.processes[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    match_folders(scorer, *folders, output, top_k=5, rows_a_part=20, runner=runner, show_progress_bar=False)
    killer.join()
    assert pq.read_table(output).equals(one)


def test_workers_encode_the_bytes_that_one_process_encodes(
    saved: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_TEXTS", 5)
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_BATCHES", 1)
    rows = [
        {"text": f"text {'and more ' * (i * 7 % 11)}{i % 31}", "id": None if i % 9 == 0 else f"id{i}"}
        for i in range(50)
    ]
    settings: dict[str, Any] = {"side": 0, "text_column": "text", "id_column": "id", "shard_rows": 12, "batch_size": 3}

    def content(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != ".lock"}

    encode_table(saved, rows, tmp_path / "one", **settings)
    encode_table(saved, rows, tmp_path / "two", **settings, runner=LocalRunner(2, threads=1))
    assert content("two") == content("one")
    with pytest.raises(KeyboardInterrupt):
        encode_table(saved, rows, tmp_path / "stopped", **settings, runner=Here(3, stop_after=4))
    encode_table(saved, rows, tmp_path / "stopped", **settings, runner=Here(2))
    assert content("stopped") == content("one")


@given(
    st.lists(st.integers(0, 12), max_size=60),
    st.sets(st.integers(0, 12), max_size=4),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_chunks_are_of_distinct_new_texts_and_end_with_shards(
    numbers: list[int], known: set[int], shard_rows: int, most: int
) -> None:
    from distilmatch.fingerprint import text_key

    keys = {text_key("", (str(number),)) for number in known}
    chunks = list(chunks_of(map(str, numbers), keys.__contains__, len(known), shard_rows, most))
    new = [str(number) for number in dict.fromkeys(numbers) if number not in known]
    assert [text for chunk in chunks for text in chunk] == new
    rows = len(known)
    for chunk in chunks[:-1]:
        room = shard_rows - rows % shard_rows
        assert len(chunk) == min(most, room)
        rows += len(chunk)


@given(st.integers(1, 5), st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=9), st.randoms())
def test_lists_merged_as_a_tree_are_the_best_of_all(rows: int, k: int, widths: list[int], draw: Any) -> None:
    random = np.random.default_rng(draw.randrange(2**32))
    scores = random.integers(-3, 3, (rows, sum(widths))).astype(np.float32)  # ties, of which the lower row comes first
    lists, first = [], 0
    for width in widths:
        part, columns = scores[:, first : first + width], np.arange(first, first + width)[None].repeat(rows, 0)
        order = best_first(part, columns)[:, :k]
        lists.append((np.take_along_axis(part, order, 1), np.take_along_axis(columns, order, 1)))
        first += width
    found, places = merged_as_tree(lists, rows, k).best()
    order = best_first(scores, np.arange(scores.shape[1])[None].repeat(rows, 0))[:, :k]
    np.testing.assert_array_equal(places[:, : order.shape[1]], order)
    np.testing.assert_array_equal(found[:, : order.shape[1]], np.take_along_axis(scores, order, 1))
    assert (places[:, order.shape[1] :] == -1).all()


def test_a_cut_is_taken_up_where_it_fits(tmp_path: Path) -> None:
    cut, grid = tmp_path / "strips-x.json", Grid(start=4, rows=20, columns=9, row_step=5, column_step=3)
    files = StripFiles(cut)
    assert files.grid(4, 20, 9) is None
    files.begin(grid)
    strip = grid.strips(1)[2]
    result = StripResult(
        scores=np.zeros((5, 2), np.float32), rows=np.zeros((5, 2), np.int64), folded=(0, 0), skipped=0, seconds=0.0
    )
    files.write(strip, result)
    again = StripFiles(cut)
    assert again.has(strip) and not again.has(grid.strips(1)[1])
    assert again.grid(9, 20, 9) == grid and again.grid(20, 20, 9) == grid
    assert again.grid(7, 20, 9) is None and again.grid(9, 21, 9) is None
    again.end()
    assert not list(tmp_path.iterdir())
