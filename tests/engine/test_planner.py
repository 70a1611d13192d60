"""The planner: what it adds up, what it asks for, and that measured rates are of the job's own kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.candidates import CandidateIndex, ivf_distances
from distilmatch.engine.heads.kinds import head_cost
from distilmatch.engine.kernels.native_module import native_module, runs_native
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError, ModelError
from distilmatch.models import DiPair
from distilmatch.planning.match_stages import CandidateRates
from distilmatch.planning.planner import Work, calibrate, plan, smaller_settings
from distilmatch.planning.samples import Samples

from .shared import RATES


def model(encoder: Path, **shape: object) -> DiPair:
    settings = {"width": 32, "head_heads": 2, "kept_tokens": (4, 6), "max_lengths": (16, 16), **shape}
    return DiPair.from_encoder(encoder, StudentConfig(**settings), TaskConfig(kind="binary")).eval()  # type: ignore[arg-type]


def test_stages_add_up(tiny_encoder: Path) -> None:
    student = model(tiny_encoder)
    work = Work(left=1000, right=2000, top_k=10, dtype="float16")
    found = plan(student, work, RATES)
    assert found.seconds == {"start": 9.0, "encode": 50.0, "fold": 5.0, "score": 200.0, "write": pytest.approx(0.1)}
    assert found.total_seconds == pytest.approx(264.1)
    assert found.bottleneck.startswith("score: products")
    assert found.disk_bytes == 1000 * (4 * 65 + 64) + 2000 * (6 * 65 + 64)
    several = plan(student, replace(work, machines=10), RATES)
    assert several.seconds["score"] == pytest.approx(20.0)
    assert several.seconds["encode"] == pytest.approx(5.0)
    assert several.seconds["fold"] == pytest.approx(0.1 + 4.0)  # every machine folds the right side
    few = plan(student, replace(work, candidates=10, encode=False), replace(RATES, encoded=(float("inf"),) * 2))
    assert few.pairs == 10_000 and few.seconds["encode"] == 0
    assert replace(work, candidates=10**6).pairs == 1000 * 2000


@pytest.mark.parametrize("candidates", [None, 5])
def test_every_stage_is_measured(tiny_encoder: Path, candidates: int | None) -> None:
    student = model(tiny_encoder)
    work = Work(left=60, right=80, candidates=candidates, top_k=100)
    texts = [["a red car", "a boat"], ["the green house"]]
    rates = calibrate(student, work, texts=texts, kernel="torch", seconds=0.1)
    found = plan(student, work, rates)
    assert all(seconds > 0 for stage, seconds in found.seconds.items() if stage != "start")
    assert found.memory_share > 0 and found.product_share is not None and found.product_share > 0
    names = [other.change for other in smaller_settings(student, work, rates, kernel="torch", seconds=0.05)]
    assert names == ["2 + 3 tokens", "ReLU in the head", "no similarities in the head", "a feed-forward head"]


def test_the_jobs_own_representations_are_measured(tiny_encoder: Path) -> None:
    student, other = model(tiny_encoder), model(tiny_encoder, kept_tokens=(4, 5))
    sides = [Samples(student).of(side, count) for side, count in enumerate((60, 300))]
    scorer = Scorer(student, kernel="torch")
    samples = Samples(student, [scorer.load(texts, side) for side, texts in enumerate(sides)])
    some, more = samples.of(1, 40, seed=1).tokens, samples.of(1, 400, seed=1).tokens
    every = {row.numpy().tobytes() for row in sides[1].tokens}
    assert len({row.numpy().tobytes() for row in some} & every) == 40 and len(more) == 400
    assert not np.array_equal(some, samples.of(1, 40, seed=2).tokens)
    joined = samples.prepared(scorer.kernel, 1, scorer.kernel.prepare(samples.of(1, 64), 1), 100)
    assert len(joined) == 100
    work = Work(left=60, right=300, candidates=5, encode=False)
    found = calibrate(student, work, folders=sides, kernel="torch", seconds=0.05)
    assert found.candidates is not None and found.candidates.texts == 300
    with pytest.raises(ModelError, match="encode it with this model"):
        calibrate(other, work, folders=sides, kernel="torch", seconds=0.05)


def test_a_lexical_student_is_planned(tiny_encoder: Path) -> None:
    student, plain = model(tiny_encoder, lexical=True), model(tiny_encoder)
    work = Work(left=60, right=80, encode=False)
    per_text = [plan(each, work, RATES).disk_bytes for each in (student, plain)]
    assert per_text[0] - per_text[1] == 140 * 65  # one vector of 32 numbers in half precision and its mask
    assert head_cost(student).operations - head_cost(plain).operations == 2 * 32  # type: ignore[operator]
    rates = calibrate(student, work, kernel="torch", seconds=0.05)
    smaller = {other.change for other in smaller_settings(student, work, rates, kernel="torch", seconds=0.05)}
    assert {"no similarities in the head", "a feed-forward head"} <= smaller


def test_files_and_blocks_are_planned(tiny_encoder: Path) -> None:
    student = model(tiny_encoder)
    rates = replace(RATES, files_written=1e6, files_read=2e6)
    work = Work(left=1000, right=2000, encode=False, memory_bytes=4 * 10**6)  # sides of 2 and 8 MB folded
    found = plan(student, work, rates)
    assert (found.passes, found.files_bytes) == (4, 8 * 10**6)
    assert found.seconds["files"] == pytest.approx(8.0)  # the left side stays in memory
    small = plan(student, replace(work, memory_bytes=2 * 10**6), rates)
    assert (small.passes, small.files_bytes) == (8, 10 * 10**6)
    assert small.seconds["files"] == pytest.approx(10.0 + 7 * 2e6 / 2e6)
    tiny = plan(student, replace(work, memory_bytes=10**5, top_k=10), rates)  # the best of 64 texts at a time
    assert tiny.seconds["files"] == pytest.approx(10.0 + (159 * 2e6 + 15 * 8e6) / 2e6)
    plenty = plan(student, replace(work, memory_bytes=None), rates)
    assert "files" not in plenty.seconds and plenty.passes == 1 and plenty.files_bytes == 0


def test_candidates_are_planned(tiny_encoder: Path) -> None:
    student = model(tiny_encoder)
    found_by = CandidateRates(
        texts=100, pooled=1000.0, indexed=100.0, searched=50.0, exact=1e4, build_power=1.5, search_power=0.5
    )
    rates = replace(RATES, candidates=found_by, files_written=1e6, files_read=2e6)
    work = Work(left=1000, right=10_000, candidates=10, encode=False, memory_bytes=4 * 10**6)
    graph = plan(student, work, rates).seconds
    assert graph["index"] == pytest.approx(10.0 + 100**1.5 + 10 * 20.0)  # a second for 100 texts, of 10,000
    assert graph["recall"] == pytest.approx(1000.0) and graph["files"] == pytest.approx(40.0 + 20.0)
    flat = plan(student, replace(work, index="flat"), rates).seconds
    assert flat["index"] == pytest.approx(10.0 + 100 * 20.0)
    inverted = plan(student, replace(work, index="ivf"), rates).seconds
    slower = (400 + 10_000 / 16) / (40 + 100 / 20)  # lists and texts that a query meets: of 400 lists 25, of 40 two
    assert inverted["index"] == pytest.approx(10.0 + 1000.0 + 20.0 * slower)


def test_what_an_index_costs_is_of_the_index_that_is_built() -> None:
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32)
    inverted = CandidateIndex(vectors, "ivf").index
    built, asked = ivf_distances(len(vectors))
    assert built == (inverted.cp.niter + 1) * len(vectors) * inverted.nlist
    assert asked == pytest.approx(inverted.nlist + inverted.nprobe * len(vectors) / inverted.nlist)


def test_how_a_graph_grows_is_measured(tiny_encoder: Path) -> None:
    pytest.importorskip("faiss")
    work = Work(left=600, right=6000, candidates=10, encode=False)
    found = calibrate(model(tiny_encoder), work, seconds=0.2).candidates
    assert found is not None and found.texts >= 4000
    assert found.build_power >= 1 and 0 <= found.search_power <= 0.5
    small = calibrate(model(tiny_encoder), replace(work, right=300), seconds=0.2).candidates
    assert small is not None and (small.build_power, small.search_power) == (1, 0)


def test_smaller_numbers_are_planned(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilmatch.planning.planner.has_fast_bf16", lambda _: True)
    student = model(tiny_encoder)
    texts = [["a red car"], ["the green house"]]
    found = {
        other.change: other.plan
        for other in smaller_settings(student, Work(left=60, right=80), RATES, texts=texts, seconds=0.05)
    }
    assert (
        found["encoders in bf16"].seconds["encode"] != plan(student, Work(left=60, right=80), RATES).seconds["encode"]
    )
    if runs_native() and native_module().has_bytes():
        assert found["int8, stored and in products"].disk_bytes < found["encoders in bf16"].disk_bytes


def test_what_cannot_be_planned(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="left must be at least 1"):
        Work(left=0, right=1)
    with pytest.raises(ConfigError, match="samples of both sides"):
        calibrate(model(tiny_encoder), Work(left=1, right=1))
    three = model(tiny_encoder, kept_tokens=(2, 2, 2), max_lengths=(8, 8, 8), side_names=("a", "b", "c"))
    with pytest.raises(ConfigError, match="3"):
        calibrate(three, Work(left=1, right=1, encode=False))


def test_operations_are_those_of_the_explanation(tiny_encoder: Path) -> None:
    plain = {"head_similarities": 0, "head_maxsim": 0}
    one = model(tiny_encoder, **plain)
    assert head_cost(one).operations == 2 * (9 * 32 * 32 + 2 * 6 * 32 + 32)
    assert head_cost(model(tiny_encoder, head="feed_forward")).operations is None
    assert head_cost(model(tiny_encoder, head_layers=2, **plain)).operations > 10 * head_cost(one).operations  # type: ignore[operator]
