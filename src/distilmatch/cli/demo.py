"""`distilmatch demo`: the whole job on a generated catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.options import say, say_next

if TYPE_CHECKING:
    from distilmatch.config.pairs import FineTuneConfig

_MARK = "demo.json"


def run(
    place: str = typer.Option("demo-output", "--output", help="Folder for everything that the demo writes."),
    seed: int = typer.Option(0, "--seed", help="Random seed."),
    quick: bool = typer.Option(False, "--quick", help="Finish in about a minute; the student learns little."),
    encoder: str = typer.Option("all-MiniLM-L6-v2", "--encoder", help="Pre-trained model for teacher and student."),
) -> None:
    """Distil a product matcher end to end: catalogue, teacher, labels, student, cache, scores, report.

    The steps are those you would take with your own data. Run the same command again to resume.
    """
    import time

    from distilmatch.cli.evaluate import show
    from distilmatch.config.pairs import PairRecipe
    from distilmatch.config.tables import TableConfig, TaskConfig
    from distilmatch.data.tables import load_table
    from distilmatch.demo.catalogue import write_demo_catalogue
    from distilmatch.evaluation.pairs.measure import evaluate_pairs
    from distilmatch.files import write_json
    from distilmatch.jobs.encode import encode_table
    from distilmatch.jobs.score import score_table
    from distilmatch.teachers import CrossEncoderTeacher
    from distilmatch.training.pairs.distil import distil_pairs, label_transfer_set
    from distilmatch.training.teacher import fine_tune_teacher

    output = Path(place)
    asked = {"seed": seed, "quick": quick, "encoder": encoder}
    check_demo(output, asked)
    started = time.perf_counter()

    def step(title: str) -> None:
        typer.secho(f"[{time.perf_counter() - started:4.0f} s] {title}", bold=True)

    sizes: dict[str, Any] = {"train_pairs": 200, "dev_pairs": 50, "test_pairs": 80, "products": 160} if quick else {}
    write_json(output / _MARK, asked)
    step("1/6 A catalogue of products, and queries that ask for them")
    paths = write_demo_catalogue(output / "data", seed=seed, simple=True, **sizes)
    columns = TableConfig(text_columns=("query", "product"), label_column="label")
    task = TaskConfig(kind="binary")
    teacher = output / "teacher"
    step("2/6 The teacher: a cross-encoder fine-tuned on the labelled pairs")
    if not teacher.exists():
        rows, dev = load_table(paths.train, columns, task), load_table(paths.dev, columns, task)
        fine_tune_teacher(rows, task, teacher, teacher_settings(encoder, seed, quick), dev)
    recipe = PairRecipe.from_dict(demo_recipe(output, encoder, seed, quick))
    recipe.to_yaml(output / "recipe.yaml")
    step("3/6 The transfer set: new pairs of neighbouring texts, labelled by the teacher")
    say(labelled_pairs=len(label_transfer_set(recipe)))
    step("4/6 The student: two stages")
    student = distil_pairs(recipe)
    step("5/6 Encode both sides once, score pairs from the cache")
    left = encode_table(student, paths.test, output / "queries", side="query", text_column="query")
    right = encode_table(student, paths.products, output / "products", side="document", text_column="text")
    table = TableConfig(text_columns=("query", "product"))
    rows_scored = score_table(
        student, paths.test, output / "scores.parquet", [left, right], table=table, overwrite=True
    )
    say(queries=len(left), products=len(right), scored_pairs=rows_scored)
    step("6/6 The report, on queries that nothing was trained or tuned on")
    test = load_table(paths.test, columns, task, side_names=student.student.side_names)
    report = evaluate_pairs(student, test, teacher=CrossEncoderTeacher(teacher))
    report.save(output / "report")
    show(report)
    show_places(output)
    step("Done")


def show_places(output: Path) -> None:
    """Prints where everything stands, and what can be done with it."""
    say(
        student=str(output / "run" / "student"),
        scores=str(output / "scores.parquet"),
        report=str(output / "report" / "report.md"),
        plot=str(output / "report" / "report.png"),
        recipe=str(output / "recipe.yaml"),
    )
    folders = ["--left", output / "queries", "--right", output / "products"]
    say_next("match", output / "run" / "student", *folders, "--top-k", 3, "--output", output / "best.parquet")


def check_demo(output: Path, asked: dict[str, Any]) -> None:
    """Refuses, before anything is made, a folder that holds other things, or an encoder that is not there."""
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_outputs, read_json
    from distilmatch.training.checks import check_model
    from distilmatch.training.run_folder import check_folder

    check_folder(output, "--output")
    check_outputs({"--output": output}, {"--encoder": asked["encoder"]})
    check_model(asked["encoder"])
    if not output.is_dir() or not any(output.iterdir()):
        return
    mark = output / _MARK
    of_demo = mark.is_file() or ((output / "data" / "products.jsonl").is_file() and (output / "recipe.yaml").is_file())
    if not of_demo:
        raise ConfigError(f"{output} holds other things: give --output a new or empty folder")
    if not mark.is_file():
        return
    try:
        made_with = read_json(mark)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{mark} is damaged ({error}): use another --output, or delete {output}") from error
    if made_with != asked:
        raise ConfigError(f"{output} holds a demo with other options ({made_with}): use another --output")


def teacher_settings(encoder: str, seed: int, quick: bool) -> FineTuneConfig:
    """How the demo's teacher is fine-tuned."""
    from distilmatch.config.pairs import FineTuneConfig

    epochs = 1 if quick else 2
    return FineTuneConfig(base_model=encoder, seed=seed, epochs=epochs, batch_size=16, dropout=0.0, max_length=96)


def demo_recipe(output: Path, encoder: str, seed: int, quick: bool) -> dict[str, object]:
    """The demo's recipe: the package's defaults, made short."""
    return {
        "train": str(output / "data" / "train.jsonl"),
        "dev": str(output / "data" / "dev.jsonl"),
        "output": str(output / "run"),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["query", "product"], "label_column": "label"},
        "teacher": {"models": [str(output / "teacher")]},
        "encoder": [encoder],
        "transfer": {"rounds": 2, "cells_per_block": 96},
        "student": {"side_names": ["query", "document"], "max_lengths": [64, 64]},
        "stage1": {"epochs": 1},
        "stage2": {"epochs": 0.5 if quick else 2, "blocks_per_batch": 4},
        "seed": seed,
    }
