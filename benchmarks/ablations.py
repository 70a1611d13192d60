"""What each choice is worth: one change at a time from the default student, in equal training time, on SICK entailment.

    python -m benchmarks.ablations --run DIR --data DIR [--work DIR] [--minutes M] [--jobs N] [--only NAME]

`--run` is the folder of `quality_sick` (its teacher and labelled pairs are used), `--data` holds SICK's train and dev splits.
Choices are made by these figures, so dev is what they are of; the test split is not read. Every variant is trained for
`--minutes` of a core with one seed: steps are measured before, in processor time, and as many are planned as fit. Writes the
table and the plot of `docs/results/ablations`. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.quality_sick import TABLE, TASK
from benchmarks.results import publish
from benchmarks.runs import pairs_of, run_all
from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.pairs import PairRecipe, StudentConfig
from distilmatch.data.saved import read_saved_table
from distilmatch.data.tables import load_table
from distilmatch.files import write_json
from distilmatch.metrics import agreement_metrics, task_metrics
from distilmatch.runtime import pick_device, seed_everything
from distilmatch.teachers import CrossEncoderTeacher, in_task_order
from distilmatch.training.pairs.distil import new_student, stages_from
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.pairs.throughput import epochs_for, seconds_per_step
from distilmatch.training.processes import Processes
from distilmatch.tuning.search import scaled
from distilmatch.types import TupleTable

DOCS = Path(__file__).parents[1] / "docs" / "results"
STAGE1_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One change.

    Attributes:
        group: the panel it belongs to; label: its name there.
        student, objective, stage: settings that differ.
        pairs: how many labelled pairs are used; None for all.
        stage1_share: share of the time for stage 1.
        cached: whether stage 1 reads cached encoder outputs.
        grouped: whether a batch's pairs share their texts.
        altered: whether pairs with altered texts are used.
        start: "encoder" or "teacher", as `new_student` takes it.
        rates: what all learning rates are multiplied by.
    """

    group: str
    label: str
    student: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    pairs: int | None = None
    stage1_share: float = STAGE1_SHARE
    cached: bool = True
    grouped: bool = True
    altered: bool = True
    start: str = "encoder"
    rates: float = 1.0


VARIANTS: dict[str, Variant] = {
    "default": Variant(group="all", label="default"),
    **{
        f"tokens_{k}": Variant(group="tokens kept a side", label=str(k), student={"kept_tokens": [k, k]})
        for k in (2, 4, 8)
    },
    **{f"layers_{n}": Variant(group="head layers", label=str(n), student={"head_layers": n}) for n in (2, 4)},
    **{f"width_{d}": Variant(group="projection", label=str(d), student={"width": d}) for d in (64, 128, 256)},
    "pairs_10k": Variant(group="labelled pairs", label="10 k", pairs=10_000),
    "pairs_50k": Variant(group="labelled pairs", label="50 k", pairs=50_000),
    "no_altered_texts": Variant(group="labelled pairs", label="no altered texts", altered=False),
    "one_stage": Variant(group="training", label="one stage", stage1_share=0.0),
    "plain_batches": Variant(group="training", label="plain batches", grouped=False),
    "averaged_weights": Variant(group="training", label="averaged weights", stage={"averaging": 0.998}),
    "half_rates": Variant(group="training", label="half the rates", rates=0.5),
    "twice_rates": Variant(group="training", label="twice the rates", rates=2.0),
    "stage1_cached": Variant(group="stage 1 alone", label="cached", stage1_share=1.0),
    "stage1_uncached": Variant(group="stage 1 alone", label="not cached", stage1_share=1.0, cached=False),
    "start_teacher": Variant(group="start", label="teacher's layers", start="teacher"),
    "start_random_head": Variant(group="start", label="random head", student={"head_start": "random"}),
    "no_similarities": Variant(group="head", label="no similarities", student={"head_similarities": 0}),
    "no_maxsim": Variant(group="head", label="no MaxSim", student={"head_maxsim": 0}),
    "paper_head": Variant(
        group="head",
        label="the paper's",
        student={"head_similarities": 0, "head_maxsim": 0, "head_start": "random"},
    ),
    "head_lite": Variant(
        group="head", label="lite", student={"head": "lite", "head_heads": 12, "width": 384}
    ),
    "head_feed_forward": Variant(group="head", label="feed-forward", student={"head": "feed_forward"}),
    "objective_mse": Variant(group="objective", label="logit MSE", objective={"kind": "mse"}),
    "objective_decoupled": Variant(group="objective", label="decoupled KL", objective={"kind": "decoupled_kl"}),
    "objective_skewed": Variant(group="objective", label="skewed KL", objective={"kind": "skewed_kl"}),
    "objective_temperature_2": Variant(group="objective", label="KL, T = 2", objective={"temperature": 2.0}),
    "objective_gold": Variant(group="objective", label="KL + 0.2 gold", objective={"gold_weight": 0.2}),
}  # fmt: skip


def _blocks(table: TupleTable) -> np.ndarray:
    assert table.blocks is not None
    return table.blocks


def labelled(run: Path, data: Path, variant: Variant) -> TupleTable:
    """The transfer set as the variant sees it."""
    table = read_saved_table(next(iter(sorted(run.glob("student_seed*/run/transfer")))))
    random = np.random.default_rng(0)
    if not variant.altered:  # these stand behind the table's own texts
        own = len(load_table(str(data / "train.jsonl"), TABLE, TASK).texts)
        table = table.take(np.flatnonzero((table.rows < own).all(axis=1)))
    blocks = _blocks(table)
    if variant.pairs is not None:
        numbers = random.permutation(np.unique(blocks))
        kept = numbers[: round(variant.pairs * len(numbers) / len(table))]
        table = table.take(np.flatnonzero(np.isin(blocks, kept)))
    if not variant.grouped:
        table = replace(table.take(random.permutation(len(table))), blocks=np.sort(_blocks(table)))
    return table


def train_one(name: str, run: Path, data: Path, work: Path, minutes: float) -> None:
    """Trains one variant, scores the dev split and writes `NAME.json`."""
    variant = VARIANTS[name]
    table = labelled(run, data, variant)
    objective = ObjectiveConfig(**variant.objective)
    processes = Processes(cpu=pick_device(None).type == "cpu")
    seed_everything(0)
    recipe = PairRecipe.from_yaml(next(iter(sorted(run.glob("student_seed*/recipe.yaml")))))
    recipe = recipe.replaced(student=StudentConfig(**variant.student))
    if variant.stage1_share == 0:
        recipe = recipe.replaced(stage1=recipe.stage1.replaced(epochs=0))
    model = new_student(recipe, table, variant.start)
    folder = work / f"{name}.training"
    shutil.rmtree(folder, ignore_errors=True)
    summaries, cpu_minutes = [], 0.0
    for number, (frozen, share) in enumerate(((True, variant.stage1_share), (False, 1 - variant.stage1_share))):
        if share <= 0:
            continue
        stage = scaled(stages_from(recipe, variant.start)[number], variant.rates)
        stage = stage.replaced(evaluations=1, **variant.stage)
        settings: dict[str, Any] = dict(frozen_encoders=frozen, processes=processes)
        started, busy = time.perf_counter(), time.process_time()
        step = seconds_per_step(model, table, stage, objective, cached=variant.cached, **settings)
        step *= min(1.0, _share_of_cores(started, busy))  # another process must not cost this variant steps
        busy = time.process_time()
        stage = stage.replaced(epochs=epochs_for(minutes * share, step, table, stage))
        summary = run_stage(
            model, table, folder / str(number), stage, objective, dev_set=None, cached=variant.cached, **settings
        )
        cpu_minutes += (time.process_time() - busy) / 60 / torch.get_num_threads()
        summaries.append(summary)
        print(f"{name}: {summary['steps']} steps in {time.perf_counter() - started:.0f} s", flush=True)
    dev = load_table(str(data / "dev.jsonl"), TABLE, TASK)
    assert dev.gold is not None
    logits = np.asarray(model.eval().logits(dev.tuples(), show_progress_bar=False))
    teacher = np.load(run / "teacher_dev_logits.npy")
    write_json(
        work / f"{name}.json",
        {
            "accuracy": task_metrics(TASK, dev.gold, logits)["accuracy"],
            **{f"teacher_{key}": value for key, value in agreement_metrics(TASK, logits, teacher).items()},
            "steps": sum(summary["steps"] for summary in summaries),
            "pairs_supervised": sum(summary["pairs_supervised"] for summary in summaries),
            "training_minutes": sum(summary["seconds"] for summary in summaries) / 60,
            "training_cpu_minutes": cpu_minutes,
        },
    )
    shutil.rmtree(folder, ignore_errors=True)


def _share_of_cores(started: float, busy: float) -> float:
    # How much of its threads' time this process computed, since a wall clock and a processor clock were read.
    wall = max(1e-9, time.perf_counter() - started)
    return (time.process_time() - busy) / wall / torch.get_num_threads()


def write_table(found: dict[str, dict[str, float]], teacher: float, minutes: float, path: Path) -> None:
    """The committed table."""
    lines = [
        "# What each choice is worth",
        "",
        f"SICK entailment, dev split, 500 pairs, one seed, {minutes:g} minutes of training each on one thread (a whole run",
        f"takes about 30); the teacher's accuracy is {teacher:.3f}. One change at a time from the default, which starts from the",
        f"pre-trained encoder and spends {STAGE1_SHARE:.0%} of the time in stage 1. With one seed and so few pairs, differences",
        "of less than 0.02 say nothing, and what four minutes favour is not what whole runs do. Repeat with",
        "`python -m benchmarks.ablations`.",
        "",
        "| what | variant | accuracy | agreement with the teacher | KL to the teacher | steps | pairs supervised |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, variant in VARIANTS.items():
        if name in found:
            own = found[name]
            lines.append(
                f"| {variant.group} | {variant.label} | {own['accuracy']:.3f} | {own['teacher_agreement']:.3f} "
                f"| {own['teacher_kl']:.3f} | {own['steps']:,} | {own['pairs_supervised']:,} |"
            )
    path.write_text("\n".join([*lines, "", "![The same as a plot](ablations.png)", ""]), encoding="utf-8")


def plot(found: dict[str, dict[str, float]], teacher: float, path: Path) -> None:
    """Accuracy of each variant beside the default and the teacher."""
    groups = list(dict.fromkeys(variant.group for variant in VARIANTS.values() if variant.group != "all"))
    default = found["default"]["accuracy"]
    ends = {"tokens kept a side": "16", "head layers": "1", "projection": "384", "labelled pairs": "all"}
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    panels = figure.subplots(2, (len(groups) + 1) // 2, sharey=True).ravel()
    low = min(own["accuracy"] for own in found.values())
    for axes, group in zip(panels, groups, strict=False):
        members = [
            (v.label, found[name]["accuracy"]) for name, v in VARIANTS.items() if v.group == group and name in found
        ]
        own_label = (ends.get(group, "default"), default)
        members = [own_label, *members] if group == "head layers" else [*members, own_label]
        colours = ["#0b6e4f" if member is own_label else "#5b7c8d" for member in members]
        values = [value for _, value in members]
        axes.vlines(range(len(members)), values, teacher, color="#d9d9d9", linewidth=4)
        axes.scatter(range(len(members)), values, color=colours, s=36, zorder=3)
        for position, value in enumerate(values):
            below = {"xytext": (0, -6), "textcoords": "offset points", "va": "top"}
            axes.annotate(f"{value:.3f}", (position, value), ha="center", fontsize=6.5, **below)
        axes.set_xlim(-0.6, len(members) - 0.4)
        axes.axhline(teacher, color="#c8553d", linewidth=1, linestyle="--")
        axes.set_xticks(range(len(members)), [label for label, _ in members], fontsize=7, rotation=35, ha="right")
        axes.set_title(group, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(max(0.0, low - 0.04), teacher + 0.02)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    figure.suptitle(
        "SICK dev accuracy in equal training time; dashed: the teacher; grey: what is missing; green: the default",
        fontsize=10,
    )
    figure.savefig(path, dpi=140)


def main() -> None:
    """Runs all variants, each in a process of its own, and publishes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", choices=list(VARIANTS), help="train this one and stop")
    arguments = parser.parse_args()
    run, data, work = arguments.run, arguments.data, arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.only:
        train_one(arguments.only, run, data, work, arguments.minutes)
        sys.exit(0)
    dev = load_table(str(data / "dev.jsonl"), TABLE, TASK)
    assert dev.gold is not None
    kept = run / "teacher_dev_logits.npy"
    if not kept.is_file():
        np.save(kept, in_task_order(CrossEncoderTeacher(str(run / "teacher")), TASK).logits(pairs_of(dev)))
    teacher = task_metrics(TASK, dev.gold, np.load(kept))["accuracy"]
    same = ["--run", str(run), "--data", str(data), "--work", str(work), "--minutes", str(arguments.minutes)]
    run_all({name: ["benchmarks.ablations", *same, "--only", name] for name in VARIANTS}, work, arguments.jobs)
    found = {name: json.loads((work / f"{name}.json").read_text()) for name in VARIANTS}
    DOCS.mkdir(parents=True, exist_ok=True)
    write_table(found, teacher, arguments.minutes, DOCS / "ablations.md")
    plot(found, teacher, DOCS / "ablations.png")
    metrics = {"teacher_accuracy": teacher}
    metrics |= {f"{name}_{key}": value for name, own in found.items() for key, value in own.items()}
    publish("ablations", metrics, [0], {"minutes": arguments.minutes, "jobs": arguments.jobs})


if __name__ == "__main__":
    main()
