"""Students of a sentence encoder beside their teacher on semantic textual similarity, stage by stage, with their baselines.

    python -m benchmarks.quality_sts --data DIR [--work DIR] [--seeds 0 1 2] [--epochs N] [--jobs N] [--dev]

`--data` holds `unlabelled/sentences.txt.gz`, `stsb/` and `sick/` with train and dev, and the test splits of the tasks. Stage 1
learns from the unlabelled sentences and the training texts without their labels, stage 2 from the training pairs of STS-B and
SICK and from triplets made of SICK's entailments and contradictions; the dev splits of both pick checkpoints. A text that
stands in any test split, on whichever side, is learnt from in neither: it is not in the corpus, nor in a pair or triplet.
Dev tables, which nothing is learnt from, are without the pairs of a test split. `--dev` measures on the dev splits instead,
for choosing. Every run is a process of its own, is done once, and goes on after a stop. Writes the table and the plot of
`docs/results/sts`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from benchmarks.results import publish
from benchmarks.runs import run_all, spread
from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.data.corpus import TextCorpus
from distilmatch.evaluation.sts.measure import evaluate_sts
from distilmatch.evaluation.sts.tasks import load_sts_tasks
from distilmatch.files import write_json
from distilmatch.training.embeddings.distil import new_student

TEACHER = "all-MiniLM-L6-v2"
COLUMNS = ["sentence1", "sentence2"]
DOCS = Path(__file__).parents[1] / "docs" / "results"
LABELS = {
    "student3_ckd": "3 layers, stage 1",
    "student3_ckd_finetuned": "3 layers, both stages",
    "student3_mse": "3 layers, MSE",
    "sentence_transformers_mse": "3 layers, sentence-transformers' MSELoss trainer",
    "student3_labelled_only": "3 layers, stage 2 alone",
    "student3_untrained": "3 layers, untrained",
    "student2_ckd": "2 layers, stage 1",
    "student2_ckd_finetuned": "2 layers, both stages",
    "student2_untrained": "2 layers, untrained",
    "static_ckd": "static, stage 1",
    "static_ckd_finetuned": "static, both stages",
    "static_untrained": "static, untrained",
}
_WORD = re.compile(r"\w+")
THREE_LAYERS: dict[str, Any] = {"layers": 3}
TABLES = {
    "stsb_train": "stsb/train.jsonl",
    "stsb_dev": "stsb/dev.jsonl",
    "sick_train": "sick/train.jsonl",
    "sick_dev": "sick/dev.jsonl",
}
SHAPES: dict[str, dict[str, Any]] = {
    "student3": THREE_LAYERS,
    "student2": {"layers": 2},
    "static": {"start": "static"},
}


def corpus(folder: Path) -> dict[str, Any]:
    """The unlabelled sentences, and the training texts of STS-B and SICK without their labels; see `clean_tables`."""
    return {"sources": [str(folder / "corpus.txt.gz")]}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _same(text: str) -> str:
    """What two texts have in common that count as one: letters and digits, in small letters."""
    return " ".join(_WORD.findall(text.lower()))


def _texts(row: Mapping[str, Any]) -> set[str]:
    return {_same(row[column]) for column in COLUMNS}


def clean_tables(data: Path, folder: Path) -> dict[str, int]:
    """Writes the corpus and the training tables of STS-B and SICK without any text of a test split, their dev tables
    without its pairs, and SICK's triplets: STS-B was put together from the yearly tasks, and SICK's pairs share their
    sentences between the splits, so that few of its training pairs remain; without its texts dev would be 11 pairs.

    Returns:
        How many rows each table and lines the corpus has, and under `left_out_NAME` how many it lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tests = [row for path in sorted(data.glob("*/test.jsonl")) for row in _rows(path) if COLUMNS[0] in row]
    pairs = {tuple(sorted(_texts(row))) for row in tests}
    tested = set().union(*(_texts(row) for row in tests))
    counts: dict[str, int] = {}
    lines: list[str] = []
    for name, source in TABLES.items():
        rows = _rows(data / source)
        dev = name.endswith("dev")
        kept = [row for row in rows if not (tuple(sorted(_texts(row))) in pairs if dev else _texts(row) & tested)]
        counts |= {name: len(kept), f"left_out_{name}": len(rows) - len(kept)}
        _write_rows(folder / f"{name}.jsonl", kept)
        if not dev:
            lines += [" ".join(row[column].split()) for row in rows for column in COLUMNS]
    with gzip.open(data / "unlabelled" / "sentences.txt.gz", "rt", encoding="utf-8") as stream:
        lines = list(dict.fromkeys([*(line.strip() for line in stream), *lines]))
    kept_lines = [line for line in lines if _same(line) not in tested]
    counts |= {"corpus": len(kept_lines), "left_out_corpus": len(lines) - len(kept_lines)}
    with gzip.open(folder / "corpus.txt.gz", "wt", encoding="utf-8") as output:
        output.writelines(line + "\n" for line in kept_lines if line)
    triplets = sick_triplets(_rows(folder / "sick_train.jsonl"))
    _write_rows(folder / "sick_triplets.jsonl", triplets)
    write_json(folder / "counts.json", counts | {"sick_triplets": len(triplets)})
    return counts


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sick_triplets(train: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """(anchor, entailment, contradiction) for every text that has both among SICK's pairs."""
    entailed: dict[str, list[str]] = {}
    contradicted: dict[str, list[str]] = {}
    for row in train:
        one, other = row["sentence1"], row["sentence2"]
        if row["entailment"] == "entailment":
            entailed.setdefault(one, []).append(other)
        elif row["entailment"] == "contradiction":  # holds both ways
            contradicted.setdefault(one, []).append(other)
            contradicted.setdefault(other, []).append(one)
    return [
        {"anchor": anchor, "positive": positive, "negative": negative}
        for anchor, positives in entailed.items()
        for positive in positives
        for negative in contradicted.get(anchor, [])
    ]


def scored(folder: Path, name: str) -> dict[str, Any]:
    """A table of scored pairs."""
    column, lowest = ("score", 0) if name.startswith("stsb") else ("relatedness", 1)
    source = str(folder / f"{name}.jsonl")
    return {"source": source, "text_columns": COLUMNS, "score_column": column, "score_range": [lowest, 5]}


def recipe(data: Path, work: Path, name: str, *, seed: int, stages: str = "12", **settings: Any) -> dict[str, Any]:
    """The recipe of one run; all share the teacher's embeddings.

    Args:
        stages: "1", "2" or "12".
        settings: parts of the recipe that differ from the package's defaults.
    """
    tables = work / "tables"
    if not (tables / "counts.json").is_file():
        clean_tables(data, tables)
    dev = [scored(tables, name) for name in ("stsb_dev", "sick_dev")]
    made: dict[str, Any] = {"output": str(work / name / "run"), "seed": seed, "dev": dev, **settings}
    made["teacher"] = {"models": [TEACHER], "cache_folder": str(work / "embeddings")}
    if "1" in stages:
        made["corpus"] = corpus(tables)
    if "2" in stages:
        triplets: dict[str, Any] = {"source": str(tables / "sick_triplets.jsonl"), "kind": "triplets"}
        triplets |= {"text_columns": ["anchor", "positive", "negative"]}
        made["labelled"] = [scored(tables, "stsb_train"), scored(tables, "sick_train"), triplets]
    return made


def write(path: Path, made: Mapping[str, Any]) -> list[str]:
    """Writes a recipe and returns the command that trains it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(made), sort_keys=False))
    return ["distilmatch.cli", "embed-train", str(path)]


def runs(data: Path, work: Path, seeds: Sequence[int], epochs: float) -> dict[str, dict[str, Any]]:
    """The recipes of all runs by name: contrastive distillation with every seed, the others with the first."""
    first = seeds[0]
    wanted: dict[str, dict[str, Any]] = {
        **{f"student3_ckd_seed{seed}": {"seed": seed, "student": THREE_LAYERS} for seed in seeds},
        "student3_mse": {"seed": first, "student": THREE_LAYERS, "stages": "1", "objective": {"kind": "mse"}},
        "student3_labelled_only": {"seed": first, "student": THREE_LAYERS, "stages": "2"},
        **{f"{shape}_ckd": {"seed": first, "student": SHAPES[shape]} for shape in SHAPES if shape != "student3"},
    }
    return {name: recipe(data, work, name, **own, stage1={"epochs": epochs}) for name, own in wanted.items()}


def models(work: Path, names: Sequence[str]) -> dict[str, Path]:
    """The folders of every trained student: of a run of two stages both."""
    found = {}
    for name in names:
        stages = [stage for stage in (1, 2) if (work / name / "run" / f"stage{stage}" / "student").is_dir()]
        for stage in stages:
            found[f"{name}|{stage}"] = work / name / "run" / f"stage{stage}" / "student"
    return found


def measure(folders: Mapping[str, Any], data: Path, split: str, kept: Path) -> dict[str, dict[str, Any]]:
    """Results by name, as `StsResult` has them; each model is measured once and its figures kept."""
    tasks = load_sts_tasks(data, split=split)
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
    for name, model in folders.items():
        if name not in results:
            report = evaluate_sts([model], tasks, split=split, measure_speed=False)
            results[name] = report.to_dict()["results"][0]
            write_json(kept, results)
            print(f"{name}: {100 * results[name]['average']:.2f}", flush=True)
    return results


def dot_plot(rows: Mapping[str, tuple[float, float]], teacher: float, label: str, path: Path) -> None:
    """A dot for every row, its mean and deviation, with the teacher as a line."""
    figure = Figure(figsize=(7.5, 0.3 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    order = sorted(rows, key=lambda label: rows[label][0])
    values, deviations = ([rows[label][i] for label in order] for i in (0, 1))
    axes.errorbar(values, range(len(order)), xerr=deviations, fmt="o", color="#0b6e4f", ecolor="#9db4c0", capsize=2)
    axes.axvline(teacher, color="#c8553d", linewidth=1, label="teacher")
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=140)


def main() -> None:
    """Trains, measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/quality_sts"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=0.75, help="passes over the unlabelled texts")
    parser.add_argument("--jobs", type=int, default=1, help="students trained at a time")
    parser.add_argument("--dev", action="store_true", help="measure on the dev splits; nothing is published")
    arguments = parser.parse_args()
    data, work, seeds = arguments.data, arguments.work, arguments.seeds
    recipes = runs(data, work, seeds, arguments.epochs)
    commands = {name: write(work / name / "recipe.yaml", made) for name, made in recipes.items()}
    first = next(iter(commands))
    place = [str(data), str(work), str(seeds[0])]
    commands["sentence_transformers_mse"] = ["benchmarks.sts_baseline", *place, "--epochs", str(arguments.epochs)]
    if not list((work / "embeddings").glob("*/manifest.json")):
        run_all({first: commands[first]}, work)  # it embeds the corpus for all
    minutes = run_all(commands, work, arguments.jobs)
    untrained = {}
    for shape in SHAPES:
        model = EmbeddingRecipe.model_validate(recipe(data, work, shape, seed=seeds[0], student=SHAPES[shape]))
        untrained[f"{shape}_untrained"] = new_student(model)
    folders = {"teacher": TEACHER, **untrained, **models(work, list(recipes))}
    folders["sentence_transformers_mse"] = work / "sentence_transformers_mse" / "student"
    split = "dev" if arguments.dev else "test"
    results = measure(folders, data, split, work / f"results_{split}.json")
    if arguments.dev:
        return
    texts = len(TextCorpus(work / first / "run" / "corpus"))
    counts = json.loads((work / "tables" / "counts.json").read_text())
    publish_figures(results, minutes, seeds, data, {"epochs": arguments.epochs, "texts": texts, "tables": counts})


def publish_figures(
    results: Mapping[str, dict[str, Any]],
    minutes: Mapping[str, float],
    seeds: Sequence[int],
    data: Path,
    settings: Mapping[str, Any],
) -> None:
    """The averages, and every task's figures beside them."""

    def averages(pattern: str) -> list[float]:
        return [100 * results[pattern.format(seed)]["average"] for seed in seeds]

    metrics: dict[str, float] = {"teacher_average": 100 * results["teacher"]["average"]}
    metrics |= {f"{name}_average": 100 * results[name]["average"] for name in results if name.endswith("_untrained")}
    metrics |= spread("student3_ckd_average", averages("student3_ckd_seed{}|1"))
    metrics |= spread("student3_ckd_finetuned_average", averages("student3_ckd_seed{}|2"))
    for name in results:
        if "seed" not in name and name != "teacher" and not name.endswith("_untrained"):
            label = name.replace("|1", "").replace("|2", "_finetuned")
            metrics[f"{label}_average"] = 100 * results[name]["average"]
    for part in ("mse", "ckd", "ckd_finetuned"):
        metrics[f"student3_{part}_share_of_teacher"] = metrics[f"student3_{part}_average"] / metrics["teacher_average"]
    for name, result in results.items():
        for task, value in result["spearman"].items():
            metrics[f"{name.replace('|', '_stage')}_{task}"] = 100 * value
    metrics |= {f"minutes_{name}": value for name, value in minutes.items()}
    if "student3_labelled_only_finetuned_average" in metrics:  # it has a second stage only
        metrics["student3_labelled_only_average"] = metrics.pop("student3_labelled_only_finetuned_average")
    rows = {
        label: (metrics[f"{name}_average"], metrics.get(f"{name}_average_std", 0.0))
        for name, label in LABELS.items()
        if f"{name}_average" in metrics
    }
    DOCS.mkdir(parents=True, exist_ok=True)
    label = "Spearman x 100, mean over the tasks' test splits"
    dot_plot(rows, metrics["teacher_average"], label, DOCS / "sts.png")
    tasks = load_sts_tasks(data)
    notes = {
        "tasks": [task.name for task in tasks],
        "labels": {task.name: task.label for task in tasks},
        "teacher": TEACHER,
        **settings,
    }
    publish("quality_sts", metrics, seeds, notes)


if __name__ == "__main__":
    main()
