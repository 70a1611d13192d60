"""`distilmatch demo`: the whole job on a generated catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.options import duration, say, say_next

if TYPE_CHECKING:
    from distilmatch.config.fine_tuning import FineTuneConfig

_MARK = "demo.json"
_STEPS = 6


@dataclass(frozen=True, kw_only=True)
class _Size:
    """How much a demo does.

    Attributes:
        catalogue: of `write_demo_catalogue`.
        teacher_epochs, student_epochs: of the fine-tuning and of stage 2.
        transfer, stage2, student, more: settings of the recipe.
        gone: the share of the whole time that has usually gone by when each step begins, measured on two cores.
    """

    catalogue: dict[str, Any]
    teacher_epochs: float
    student_epochs: float
    transfer: dict[str, Any]
    stage2: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    gone: tuple[float, ...]


_SIZES = {
    "quick": _Size(
        catalogue={"short": True, "train_pairs": 200, "dev_pairs": 50, "test_pairs": 80, "products": 160},
        teacher_epochs=1,
        student_epochs=0.5,
        transfer={"rounds": 1, "cells_per_block": 48},
        more={"start": "encoder"},
        gone=(0.0, 0.0, 0.08, 0.26, 0.78, 0.82),
    ),
    "usual": _Size(
        catalogue={"short": True, "train_pairs": 2000, "dev_pairs": 300},
        teacher_epochs=2,
        student_epochs=2,
        transfer={"rounds": 1, "cells_per_block": 48, "perturbed": 3},
        stage2={"blocks_per_batch": 2, "evaluations": 3},
        student={"encoder_layers": 4},
        more={"start": "encoder"},
        gone=(0.0, 0.0, 0.21, 0.35, 0.86, 0.88),
    ),
    "full": _Size(
        catalogue={},
        teacher_epochs=2,
        student_epochs=2,
        transfer={"rounds": 2, "cells_per_block": 96},
        gone=(0.0, 0.0, 0.12, 0.33, 0.96, 0.97),
    ),
}


def run(
    place: str = typer.Option("demo-output", "--output", help="Folder for everything that the demo writes."),
    seed: int = typer.Option(0, "--seed", help="Random seed."),
    quick: bool = typer.Option(False, "--quick", help="Finish in about a minute; the student learns little."),
    full: bool = typer.Option(False, "--full", help="Longer texts and training: about ten minutes on two cores."),
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
    from distilmatch.errors import ConfigError
    from distilmatch.evaluation.pairs.measure import evaluate_pairs
    from distilmatch.files import write_json
    from distilmatch.jobs.encode import encode_table
    from distilmatch.jobs.score import score_table
    from distilmatch.teachers import CrossEncoderTeacher
    from distilmatch.training.pairs.distil import distil_pairs, label_transfer_set
    from distilmatch.training.teacher.fine_tune import fine_tune_teacher

    if quick and full:
        raise ConfigError("--quick and --full are two sizes of the demo: give one of them")
    output = Path(place)
    name = "quick" if quick else "full" if full else "usual"
    size = _SIZES[name]
    asked = {"seed": seed, "size": name, "encoder": encoder}
    check_demo(output, asked)
    # Of a demo that was stopped, the time so far says nothing about the rest.
    shares = None if (output / _MARK).exists() else size.gone
    started = time.perf_counter()

    def step(number: int, title: str) -> None:
        typer.secho(step_line(number, title, time.perf_counter() - started, shares), bold=True)

    write_json(output / _MARK, asked)
    step(1, "A catalogue of products, and queries that ask for them")
    paths = write_demo_catalogue(output / "data", seed=seed, simple=True, **size.catalogue)
    columns = TableConfig(text_columns=("query", "product"), label_column="label")
    task = TaskConfig(kind="binary")
    teacher = output / "teacher"
    step(2, "The teacher: a cross-encoder fine-tuned on the labelled pairs")
    if not teacher.exists():
        rows, dev = load_table(paths.train, columns, task), load_table(paths.dev, columns, task)
        fine_tune_teacher(rows, task, teacher, teacher_settings(encoder, seed, size.teacher_epochs), dev)
    recipe = PairRecipe.from_dict(demo_recipe(output, encoder, seed, size))
    recipe.to_yaml(output / "recipe.yaml")
    step(3, "The transfer set: new pairs of neighbouring texts, labelled by the teacher")
    say(labelled_pairs=len(label_transfer_set(recipe)))
    step(4, "The student: two stages")
    student = distil_pairs(recipe)
    step(5, "Encode both sides once, score pairs from the cache")
    left = encode_table(student, paths.test, output / "queries", side="query", text_column="query")
    right = encode_table(student, paths.products, output / "products", side="document", text_column="text")
    table = TableConfig(text_columns=("query", "product"))
    place_of_scores = output / "scores.parquet"
    scored = score_table(student, paths.test, place_of_scores, [left, right], table=table, overwrite=True)
    say(queries=len(left), products=len(right), scored_pairs=scored)
    step(6, "The report, on queries that nothing was trained or tuned on")
    test = load_table(paths.test, columns, task, side_names=student.student.side_names)
    report = evaluate_pairs(student, test, teacher=CrossEncoderTeacher(teacher))
    report.save(output / "report")
    show(report)
    typer.secho(f"Done in {duration(time.perf_counter() - started)}.\n", bold=True)
    show_places(output)


def step_line(number: int, title: str, seconds: float, shares: Sequence[float] | None = None) -> str:
    """The line that a step begins with: the time so far, its number and, from there on, about how long the rest takes.

    Args:
        number: of the step, from 1.
        seconds: since the demo began.
        shares: how much of the whole time has usually gone by when each step begins; None where it is not known.
    """
    told = f"[{seconds:4.0f} s] {number}/{_STEPS} {title}"
    gone = 0.0 if shares is None else shares[number - 1]
    return f"{told}\n         about {duration(round(seconds * (1 / gone - 1)))} left" if gone else told


def show_places(output: Path) -> None:
    """Prints where everything stands, and what can be done with it."""
    say(
        student=str(output / "run" / "student"),
        scores=str(output / "scores.parquet"),
        report=str(output / "report" / "report.html"),
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


def teacher_settings(encoder: str, seed: int, epochs: float) -> FineTuneConfig:
    """How the demo's teacher is fine-tuned."""
    from distilmatch.config.fine_tuning import FineTuneConfig

    return FineTuneConfig(
        base_model=encoder,
        seed=seed,
        minutes=0,
        epochs=epochs,
        batch_size=16,
        learning_rate=1e-4,
        dropout=0.0,
        max_length=96,
    )


def demo_recipe(output: Path, encoder: str, seed: int, size: _Size) -> dict[str, object]:
    """The demo's recipe: the package's defaults, made short."""
    return {
        "train": str(output / "data" / "train.jsonl"),
        "dev": str(output / "data" / "dev.jsonl"),
        "output": str(output / "run"),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["query", "product"], "label_column": "label"},
        "teacher": {"models": [str(output / "teacher")]},
        "encoder": [encoder],
        "transfer": size.transfer,
        "student": {"side_names": ["query", "document"], "max_lengths": [64, 64]} | size.student,
        "stage1": {"epochs": 1},
        "stage2": {"epochs": size.student_epochs, "blocks_per_batch": 4} | size.stage2,
        "seed": seed,
        **size.more,
    }
