"""What each choice of the embedding job is worth: one change at a time from the default three-layer student, on the dev splits.

    python -m benchmarks.sts_ablations --data DIR [--work DIR] [--epochs N] [--seeds 0 1 2] [--jobs N] [--variants NAME ...]

As in the paper: contrastive distillation against mean squared error against both, with and without the memory bank and its
sizes, temperatures, stage 2 alone; and the similarities that the package adds. Every variant passes `--epochs` times over the
same texts, the learning rate rising in the first fifth; the default is trained with every seed, the others with the first.
Measured on the dev splits of STS-B and SICK, which also pick checkpoints, so that no test split is looked at. Writes the table
and the plot of `docs/results/sts-ablations`. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.quality_sts import THREE_LAYERS, dot_plot, measure, recipe, write
from benchmarks.results import publish
from benchmarks.runs import run_all, spread

DOCS = Path(__file__).parents[1] / "docs" / "results"
DEFAULT = "default"
SIMILARITY = {"similarity_weight": 1.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    DEFAULT: ("default: CKD, bank of 65,536, learned temperature", {}),
    "mse": ("mean squared error", {"objective": {"kind": "mse"}}),
    "both": ("CKD and mean squared error", {"objective": {"kind": "both"}}),
    "similarity": ("CKD and similarities", {"objective": SIMILARITY}),
    "all": ("CKD, mean squared error and similarities", {"objective": {**SIMILARITY, "kind": "both"}}),
    "bank_0": ("no memory bank", {"objective": {"bank_size": 0}}),
    "bank_4096": ("bank of 4,096", {"objective": {"bank_size": 4096}}),
    "temperature_05": ("temperature 0.05, fixed", {"objective": {"temperature": 0.05, "learn_temperature": False}}),
    "temperature_20": ("temperature 0.2, fixed", {"objective": {"temperature": 0.2, "learn_temperature": False}}),
    "rate": ("the paper's learning rate, 2e-4", {"stage1": {"learning_rate": 2e-4}}),
    "first_layers": ("the teacher's first layers", {"student": {"layers": [0, 1, 2]}}),
    "last_layers": ("the teacher's last layers", {"student": {"layers": [3, 4, 5]}}),
}
STAGE2_ALONE = "stage2_alone"


def recipes(data: Path, work: Path, epochs: float, seeds: list[int], variants: list[str]) -> dict[str, dict[str, Any]]:
    """Of every run by name; the default with every seed, and of the first seed also stage 2."""
    found: dict[str, dict[str, Any]] = {}
    for name in variants:
        changes = VARIANTS[name][1]
        for seed in seeds if name == DEFAULT else seeds[:1]:
            settings = {"student": THREE_LAYERS, **changes}
            short = {"epochs": epochs, "evaluations": 4, "warmup_epochs": epochs / 5}
            settings["stage1"] = {**short, **changes.get("stage1", {})}
            own = f"{name}_seed{seed}"
            stages = "12" if name == DEFAULT and seed == seeds[0] else "1"
            found[own] = recipe(data, work, own, seed=seed, stages=stages, **settings)
    found[STAGE2_ALONE] = recipe(data, work, STAGE2_ALONE, seed=seeds[0], stages="2", student=THREE_LAYERS)
    return found


def main() -> None:
    """Trains every variant, measures on dev and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/sts_ablations"))
    parser.add_argument("--epochs", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="beside the default"
    )
    arguments = parser.parse_args()
    data, work, seeds = arguments.data, arguments.work, arguments.seeds
    variants = list(dict.fromkeys([DEFAULT, *arguments.variants]))
    made = recipes(data, work, arguments.epochs, seeds, variants)
    commands = {name: write(work / name / "recipe.yaml", one) for name, one in made.items()}
    first = next(iter(commands))
    if not list((work / "embeddings").glob("*/manifest.json")):
        run_all({first: commands[first]}, work)  # it embeds the corpus for all
    minutes = run_all(commands, work, arguments.jobs)
    folders: dict[str, Any] = {"teacher": "all-MiniLM-L6-v2"}
    for name in made:
        for stage in (1, 2):
            student = work / name / "run" / f"stage{stage}" / "student"
            if student.is_dir():
                folders[f"{name}|{stage}"] = student
    results = measure(folders, data, "dev", work / "results_dev.json")
    values = {name: 100 * result["average"] for name, result in results.items()}
    metrics = {"teacher_average": values["teacher"]}
    rows: dict[str, tuple[float, float]] = {}
    for name in variants:
        label = VARIANTS[name][0]
        own = [values[f"{name}_seed{seed}|1"] for seed in (seeds if name == DEFAULT else seeds[:1])]
        metrics |= spread(f"{name}_average", own) if len(own) > 1 else {f"{name}_average": own[0]}
        rows[label] = (sum(own) / len(own), metrics.get(f"{name}_average_std", 0.0))
    metrics["default_finetuned_average"] = values[f"{DEFAULT}_seed{seeds[0]}|2"]
    rows["default, then stage 2"] = (metrics["default_finetuned_average"], 0.0)
    metrics["stage2_alone_average"] = values[f"{STAGE2_ALONE}|2"]
    rows["stage 2 alone"] = (metrics["stage2_alone_average"], 0.0)
    metrics |= {f"minutes_{name}": value for name, value in minutes.items()}
    DOCS.mkdir(parents=True, exist_ok=True)
    label = "Spearman x 100, mean of the dev splits of STS-B and SICK"
    dot_plot(rows, metrics["teacher_average"], label, DOCS / "sts-ablations.png")
    publish("sts_ablations", metrics, seeds, {"epochs": arguments.epochs, "labels": dict(rows)})


if __name__ == "__main__":
    main()
