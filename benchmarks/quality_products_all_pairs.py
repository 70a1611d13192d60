"""Do student and teacher decide alike on all pairs of two catalogues, and not only on those of a test split?

    python -m benchmarks.quality_products_all_pairs --data DIR --student DIR --teacher DIR [DIR ...] [--work DIR] [--sample N]

The student matches all 2,554 x 22,074 records of `walmart_amazon`. Its hundred best of each left record are known then, and
which pairs it calls matches: those above its threshold of the valid split. A sample is drawn in three layers: its matches, the
others among the hundred best, and pairs at random of the 56 million. The teacher says of each whether it is above its own
threshold of the valid split. Every sampled pair counts as much as its layer is large.

`agreement_at_threshold` is the F1 of the student's matches, with the teacher's taken for right; of the pairs themselves nearly
all are no match to both, so that their share says nothing. Recall at 1 and 10 is of test's known matches.

Theory: a catalogue has a thousand times as many pairs for each match as a test split of blocked pairs. A student that mistakes
one pair of ten thousand makes more wrong matches there than there are right ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gradings
from benchmarks.quality_products import KEPT, Shops, matched
from benchmarks.results import publish
from benchmarks.sets import SETS, DataSet
from distilmatch.config.pairs import TeacherConfig
from distilmatch.models import DiPair
from distilmatch.teachers import in_task_order, load_teacher

LAYERS = ("matches", "near", "far")


def layers(
    best: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
    threshold: float,
    rights: int,
    sample: int,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Pairs of row numbers drawn from each layer, (n, 2) each, and how many pairs each layer has.

    Args:
        best: of each left record the right records that the student ranks highest; scores: their logits.
        rights: right records in all.
        sample: pairs in all, a third of each layer, or all that it has.
    """
    rng = np.random.default_rng(seed)
    kept = np.array([(left, right) for left, own in enumerate(best) for right in own], dtype=np.int64).reshape(-1, 2)
    above = np.array([score > threshold for own in scores for score in own], dtype=bool)
    every = {"matches": kept[above], "near": kept[~above]}
    sizes = {name: len(pairs) for name, pairs in every.items()} | {"far": len(best) * rights - len(kept)}
    taken = {name: pairs[rng.permutation(len(pairs))[: sample // len(LAYERS)]] for name, pairs in every.items()}
    known = set(map(tuple, kept.tolist()))
    far: dict[tuple[int, int], None] = {}
    while len(far) < min(sample // len(LAYERS), sizes["far"]):
        pair = (int(rng.integers(len(best))), int(rng.integers(rights)))
        if pair not in known:
            far.setdefault(pair)
    return taken | {"far": np.array(list(far), dtype=np.int64).reshape(-1, 2)}, sizes


def agreement(teacher_matches: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, float]:
    """How the two decide over all pairs, by (n,) bool of each layer's sample; the student's matches are its first layer."""
    share = {name: float(own.mean()) if len(own) else 0.0 for name, own in teacher_matches.items()}
    both = share["matches"] * sizes["matches"]
    teacher = sum(share[name] * sizes[name] for name in LAYERS)
    precision, recall = both / max(1, sizes["matches"]), both / max(1e-9, teacher)
    found = {f"teacher_matches_of_{name}": share[name] for name in LAYERS}
    return found | {
        "agreement_at_threshold": 2 * precision * recall / max(1e-9, precision + recall),
        "agreement_precision": precision,
        "agreement_recall": recall,
        "student_matches": float(sizes["matches"]),
        "teacher_matches": teacher,
    }


def dev_threshold(one: DataSet, tables: Mapping[str, Path], logits: Any) -> float:
    """The threshold of the best F1 on the valid split, of a model's (n, 1) logits of pairs."""
    rows = one.read(tables["dev"])
    answers = rows.answers(np.asarray(logits(rows.scored)))
    return gradings.best_threshold(answers.gold, answers.one)


def main() -> None:
    """Matches, draws, asks the teacher and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True, help="a student's folder")
    parser.add_argument("--teacher", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/quality_products_all_pairs"))
    parser.add_argument("--sample", type=int, default=20_000)
    arguments = parser.parse_args()
    one = SETS["walmart_amazon"]
    tables = one.tables(arguments.data, arguments.work / "tables")
    shops = Shops(one, arguments.data)
    student = DiPair.from_pretrained(arguments.student).eval()
    threshold = dev_threshold(one, tables, lambda pairs: student.logits(pairs, show_progress_bar=False))
    config = TeacherConfig(models=tuple(map(str, arguments.teacher)), precision="auto", max_length=one.pair_length)
    teacher = in_task_order(load_teacher(config), one.task)
    limit = dev_threshold(one, tables, teacher.logits)
    best, scores, seconds = matched(arguments.student, shops, arguments.work / "job")
    drawn, sizes = layers(best, scores, threshold, len(shops.texts[1]), arguments.sample)
    asked = {
        name: teacher.logits([(shops.texts[0][left], shops.texts[1][right]) for left, right in pairs])[:, 0] > limit
        for name, pairs in drawn.items()
    }
    metrics = agreement(asked, sizes) | shops.recalls("job", best) | {"job_minutes": sum(seconds.values()) / 60}
    metrics |= {f"sampled_{name}": float(len(pairs)) for name, pairs in drawn.items()}
    notes = {"kept": KEPT, "student": arguments.student.name, "teachers": len(arguments.teacher)}
    publish("quality_products_all_pairs", metrics, [0], notes)


if __name__ == "__main__":
    main()
