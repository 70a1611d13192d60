"""Whether a rebuilding cost speed: an old and a new commit, each in an environment of its own, in turn.

`python -m benchmarks.walls_speed --old OLD/bin/python --new NEW/bin/python`. Seven rounds of both; a ratio is that of the
medians, new by old. Theory: scoring is bound by the kernel (products and loads of one pair), training by the encoder's
products; the Python around them should not show.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile

from benchmarks.results import publish

ROUNDS = 7
# Runs with either commit: only names that both have, or one of two places.
CHILD = """
import json, sys, time, pathlib
import numpy as np, torch
from distilmatch.config import PairRecipe, StudentConfig, TaskConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations
try:
    from distilmatch.training.pairs.distil import distil_pairs
except ImportError:
    from distilmatch.training.distil import distil_pairs

folder = pathlib.Path(sys.argv[1])
torch.manual_seed(0)
plain = {"head_start": "random", "head_similarities": 0, "head_maxsim": 0}
shape = StudentConfig(width=256, head_heads=8, kept_tokens=(8, 8), **plain)
model = DiPair.from_encoder("all-MiniLM-L6-v2", shape, TaskConfig(kind="binary")).eval()
sides = [TokenRepresentations(torch.randn(2000, 8, 256), torch.ones(2000, 8, dtype=torch.bool)) for _ in range(2)]
scorer = Scorer(model)
loaded = [scorer.load(side, j) for j, side in enumerate(sides)]
rows = np.random.default_rng(0).integers(0, 2000, (400_000, 2))
best = getattr(scorer, "best", None) or (lambda left, right, top_k: scorer.all_pairs(left, right, top_k=top_k))

def rate(work, amount):
    work()
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return amount / min(seconds)

some = [scorer.load(side[:700], j) for j, side in enumerate(sides)]
measured = {
    "pairs": rate(lambda: scorer.score(*loaded, rows=rows, show_progress_bar=False), len(rows)),
    "all_pairs": rate(lambda: best(*some, top_k=10), 700 * 700),
}
words = "red blue green old new small large car lamp coat shoe book house dog".split()
draw = np.random.default_rng(0)
table = folder / "train.jsonl"
with table.open("w") as file:
    for _ in range(6000):
        texts = [" ".join(draw.choice(words, draw.integers(3, 12))) for _ in range(2)]
        file.write(json.dumps({"a": texts[0], "b": texts[1], "t": float(draw.normal())}) + "\\n")
recipe = PairRecipe.from_dict({
    "train": str(table), "output": str(folder / "run"), "task": {"kind": "binary"}, "device": "cpu",
    "table": {"text_columns": ["a", "b"], "teacher_columns": ["t"], "teacher_scale": "logit"}, "transfer": {"rounds": 0},
    "student": {"kept_tokens": [8, 8], "max_lengths": [16, 16], "width": 128, "head_heads": 4, "encoder_layers": 2},
    "stage1": {"epochs": 0}, "stage2": {"epochs": 1, "precision": "fp32", "evaluations": 1},
})
distil_pairs(recipe)
measured["training"] = 1 / json.loads((folder / "run" / "stage2" / "stage.json").read_text())["seconds_per_step"]
print(json.dumps(measured))
"""


def _measured(python: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([python, "-c", CHILD, folder], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return rates


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", required=True, help="Python of an environment with the old commit.")
    parser.add_argument("--new", required=True, help="Python of an environment with the new commit.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    rates: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
    for number in range(arguments.rounds):
        for name in ("old", "new") if number % 2 == 0 else ("new", "old"):
            rates[name].append(_measured(getattr(arguments, name)))
            print(number, name, rates[name][-1], flush=True)
    metrics: dict[str, float] = {}
    for what in rates["old"][0]:
        medians = {}
        for name, rounds in rates.items():
            values = [one[what] for one in rounds]
            medians[name] = statistics.median(values)
            metrics[f"{what}_{name}_per_s"] = medians[name]
            metrics[f"{what}_{name}_spread"] = (max(values) - min(values)) / medians[name]
        metrics[f"{what}_ratio"] = medians["new"] / medians["old"]
    publish("walls_speed", metrics, [0], {"rounds": arguments.rounds, "spread": "largest less smallest, by the median"})


if __name__ == "__main__":
    main()
