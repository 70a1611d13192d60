"""What a user hits in the first week: wrong results without a word, crashes, damage that is taken for data.

Nothing here is timed. Tiny models with random weights are used as users do it, wrongly and in parallel: generated calls into
the compiled module in processes of their own, threads that share models, single damages to what lies on disk, and the tests of
every kind of fault at every public door (tests/doors). With --cases, the scripts of a folder are run too, exit 0 is right.

    python -m benchmarks.first_week [--wild-calls N] [--thread-calls N] [--damages N] [--cases DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tests.doors import KINDS

from benchmarks.damages import Artefact, try_damages
from benchmarks.first_week_models import Models, labelled_by_length, words
from benchmarks.results import publish
from distilmatch.engine.scorer import Scorer
from distilmatch.jobs.encode import encode_table
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder
from distilmatch.teachers import CrossEncoderTeacher, SentenceTeacher, SoftLabelCache

ROOT = Path(__file__).parents[1]
NOT_YET = ("15", "20", "33", "38")  # cases of later work


def kinds_tested() -> tuple[int, int, list[str]]:
    """Kinds of fault whose tests all pass, tests that passed, and the kinds that do not."""
    failing, passed = [], 0
    for kind, files in KINDS.items():
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *files],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
        count = next((int(word) for word, what in zip(last.split(), last.split()[1:]) if what.startswith("passed")), 0)
        passed += count
        print(f"{kind}: {last}", flush=True)
        if done.returncode or not count:
            failing.append(kind)
    return len(KINDS) - len(failing), passed, failing


def wild_calls(count: int) -> dict[str, float]:
    """Generated calls into the compiled module, in processes of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.wild_calls", "--calls", str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {f"wild_calls_{name}": float(value) for name, value in found.items()} | {"wild_calls": float(found["calls"])}


def threads_wrong(models: Models, calls: int) -> tuple[int, int]:
    """Of calls from eight threads to models that they share, how many give another result than one thread, or an error."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    student, texts = models.student(0), words(120, 10, 30)
    shared = CrossEncoder(str(models.cross_encoder), device="cpu")
    embedding = SentenceTransformer(str(models.sentence_encoder), device="cpu")
    shared.train()  # a teacher labels without dropout, whatever the model's owner does with it
    embedding.train()
    teachers = [CrossEncoderTeacher(shared, max_length=length, precision="fp32") for length in (12, 40)]
    encoders = [SentenceTeacher(embedding, max_length=length, precision="fp32") for length in (8, 40)]
    sides = [student.encode(texts, side) for side in (0, 1)]
    scorer = Scorer(student)

    def part(number: int) -> list[str]:
        start = 10 * number % 110
        return texts[start : start + 10]

    kinds: list[Callable[[int], Any]] = [
        lambda i: student.encode(part(i), i // 7 % 2).tokens.numpy(),
        lambda i: student.predict(list(zip(part(i), part(i + 1), strict=True))),
        lambda i: np.array([hit["corpus_id"] for hit in student.rank(part(i)[0], part(i + 2))]),
        lambda i: teachers[i // 7 % 2].logits(list(zip(part(i), part(i + 1), strict=True))),
        lambda i: encoders[i // 7 % 2].embed(part(i)),
        lambda i: scorer.rank(sides[0][slice(i % 100, i % 100 + 3)], sides[1], top_k=3).scores,
        lambda i: student.score(*sides, rows=np.stack([np.arange(20), (np.arange(20) + i) % 120], 1)),
    ]

    def call(number: int) -> Any:
        return kinds[number % len(kinds)](number)

    distinct = 2 * 7 * 120  # after so many calls the same ones come again
    expected = [call(number) for number in range(min(calls, distinct))]
    wrong = errors = 0
    with ThreadPoolExecutor(8) as pool:
        for number, future in enumerate([pool.submit(call, number % distinct) for number in range(calls)]):
            try:
                wrong += not np.allclose(future.result(), expected[number % distinct], atol=1e-4)
            except Exception as error:
                print(f"call {number}: {type(error).__name__}: {error}", flush=True)
                errors += 1
    assert shared.training and embedding.training
    return wrong, errors


def artefacts(models: Models, work: Path) -> list[Artefact]:
    """A representation folder, a label cache and a student, with another one of each."""
    texts = words(400, 2, 9)
    rows = [{"text": text, "id": f"d{i % 390}" if i < 390 else None} for i, text in enumerate(texts)]
    students, folders, caches = [], [], []
    pairs = [(texts[i], texts[-1 - i]) for i in range(300)]
    for seed in (0, 1):
        student = models.student(seed)
        student.save_pretrained(work / f"student-{seed}")
        students.append(work / f"student-{seed}")
        folder = work / f"folder-{seed}"
        encode_table(
            student, rows, folder, side=1, text_column="text", id_column="id", shard_rows=100, show_progress_bar=False
        )
        folders.append(folder)
        SoftLabelCache(work / f"labels-{seed}").label(labelled_by_length(seed), pairs, show_progress_bar=False)
        caches.append(work / f"labels-{seed}")

    def read(place: Path) -> list[Any]:
        folder = RepresentationFolder.open(place)
        found = folder.read(np.arange(len(folder)))
        ids = folder.row_of_id([f"d{i}" for i in range(390)])
        items = [np.asarray(part).tolist() for part in folder.items()]
        return [
            found.tokens.numpy(),
            found.mask.numpy(),
            folder.row_of_text(texts),
            ids,
            items,
            folder.manifest.to_dict(),
        ]

    def predict(place: Path) -> list[Any]:
        model = DiPair.from_pretrained(place).eval()
        return [model.logits(pairs[:20]), model.student.to_dict(), model.task.to_dict()]

    def label(place: Path) -> list[Any]:
        return [SoftLabelCache(place).label(labelled_by_length(0), pairs, show_progress_bar=False)]

    def same(one: list[Any], other: list[Any]) -> bool:
        return all(
            np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(one, other, strict=True)
        )

    uses = {"representations": (folders, read), "labels": (caches, label), "student": (students, predict)}
    return [
        Artefact(name=name, folder=places[0], other=places[1], use=use, same=same)
        for name, (places, use) in uses.items()
    ]


def cases_right(folder: Path) -> tuple[list[str], list[str]]:
    """The scripts of a folder whose name begins with a number: those that exit with 0, and the others."""
    right: list[str] = []
    wrong: list[str] = []
    for script in sorted(folder.glob("[0-9]*.py")):
        done = subprocess.run(
            [sys.executable, script.name],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        (right if done.returncode == 0 else wrong).append(script.stem)
        print(f"{script.stem}: {'right' if done.returncode == 0 else 'wrong'}", flush=True)
    return right, wrong


def main() -> None:
    """Tries everything, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wild-calls", type=int, default=2000)
    parser.add_argument("--thread-calls", type=int, default=10_000)
    parser.add_argument("--damages", type=int, default=501, help="shared by the three kinds of artefact")
    parser.add_argument("--cases", type=Path, help="a folder of scripts that exit with 0 where the behaviour is right")
    arguments = parser.parse_args()
    metrics: dict[str, float] = {}
    notes: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        models = Models(work / "models")
        metrics |= wild_calls(arguments.wild_calls)
        wrong, errors = threads_wrong(models, arguments.thread_calls)
        metrics |= {"thread_calls": arguments.thread_calls, "threads_wrong": wrong, "threads_errors": errors}
        print(f"threads: {wrong} wrong, {errors} errors of {arguments.thread_calls}", flush=True)
        total = unseen = 0
        lines: list[str] = []
        for artefact in artefacts(models, work):
            outcomes, told = try_damages(artefact, arguments.damages // 3, work / "damaged")
            print(artefact.name, outcomes, flush=True)
            lines += told
            total += sum(outcomes.values())
            unseen += outcomes["wrong"] + outcomes["a traceback"]
            metrics |= {f"damages_{artefact.name}_{name.replace(' ', '_')}": n for name, n in outcomes.items()}
        for line in lines:
            print(line, flush=True)
        metrics |= {"damages": total, "damage_found_fraction": 1 - unseen / total}
        notes["damage"] = (
            "found: refused by name, or without any effect on what is read (asked again, or bytes that mean nothing)"
        )
    tested, passed, failing = kinds_tested()
    metrics |= {"kinds_tested": tested, "kinds": len(KINDS), "tests_of_kinds_passed": passed}
    notes["kinds that fail"] = failing
    if arguments.cases:
        right, missed = cases_right(arguments.cases)
        metrics |= {"cases_right": len(right), "cases": len(right) + len(missed)}
        notes["cases that are wrong"] = missed
        notes["cases of later work"] = [name for name in missed if name.startswith(NOT_YET)]
    publish("first_week", metrics, [0], notes)


if __name__ == "__main__":
    main()
