"""A child that was forked after a scorer was used scores; it used to wait for threads that do not live in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilmatch.engine.kernels.native_module import runs_native

_SCRIPT = """
import os, sys
import numpy as np
import torch
from distilmatch import DiPair, Scorer, StudentConfig

torch.set_num_threads(1)  # PyTorch's own threads have the same fault; what is tried are the compiled kernel's
model = DiPair.from_encoder(sys.argv[1], StudentConfig(width=32, head_heads=2, kept_tokens=(3, 4), max_lengths=(24, 24)))
texts = [f"red car {i}" for i in range(60)]
sides = [model.encode(texts, side) for side in (0, 1)]
scorer = Scorer(model, kernel="native", threads=2)
rows = np.random.default_rng(0).integers(0, 60, (2000, 2))
before = scorer.score(*sides, rows=rows)
best = scorer.best(*sides, top_k=3)
child = os.fork()
if child == 0:
    same = np.array_equal(scorer.score(*sides, rows=rows), before)
    found = scorer.best(*sides, top_k=3)
    fresh = Scorer(model, kernel="native", threads=2).score(*sides, rows=rows)
    os._exit(0 if same and np.array_equal(found.rows, best.rows) and np.array_equal(fresh, before) else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert np.array_equal(scorer.score(*sides, rows=rows), before)  # the parent keeps its threads
"""


@pytest.mark.skipif(not runs_native() or not hasattr(os, "fork"), reason="no native kernels here, or no forks")
def test_a_forked_child_scores(tiny_encoder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tiny_encoder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("scores with one thread") == 1
