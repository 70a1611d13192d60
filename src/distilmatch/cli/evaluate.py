"""`distilmatch evaluate`: how good and how fast a student is beside its teacher."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.dry_run import precision_on, say_estimate, say_machine, say_table
from distilmatch.cli.options import (
    Delimiter,
    Device,
    DryRun,
    IdColumns,
    ModelPath,
    OnBadRows,
    Quoting,
    Split,
    TablePath,
    TextColumns,
    TextTemplates,
    names,
    one_of,
    say,
    say_next,
    student_of,
    table_config,
    text_option,
)

if TYPE_CHECKING:
    from distilmatch.config.pairs import TeacherConfig
    from distilmatch.config.tables import TableConfig
    from distilmatch.evaluation.pairs.report import PairReport
    from distilmatch.metrics.decisions import Decision
    from distilmatch.models import DiPair
    from distilmatch.types import TupleTable


def run(
    model: ModelPath,
    table: TablePath,
    output: str = typer.Option(..., "--output", help="Folder for report.html, report.json, report.md and report.png."),
    teacher: str | None = typer.Option(
        None,
        "--teacher",
        metavar="MODEL[,MODEL]",
        help="Teacher to compare with; the logits of several are averaged.",
        show_default="no teacher",
    ),
    teacher_dtype: str = typer.Option(
        "auto", "--teacher-dtype", metavar="auto|fp32|bf16|fp16", help="Dtype of the teacher's weights; auto is fp32."
    ),
    teacher_device: str | None = typer.Option(
        None, "--teacher-device", help="Device of the teacher.", show_default="that of --device"
    ),
    teacher_revision: str | None = typer.Option(
        None,
        "--teacher-revision",
        metavar="REVISION[,REVISION]",
        help="Hub commit or tag of each teacher.",
        show_default="the latest",
    ),
    label_column: str | None = typer.Option(
        None, "--label-column", help="Column of the gold labels.", show_default="no gold labels"
    ),
    text_columns: TextColumns = None,
    text_templates: TextTemplates = None,
    id_columns: IdColumns = None,
    simple_baselines: bool = typer.Option(
        False, "--simple-baselines", help="Also measure TF-IDF, BM25 and other baselines that read no model."
    ),
    train_table: str | None = typer.Option(
        None,
        "--train-table",
        metavar="TABLE",
        help="With --simple-baselines: labelled table that they are fitted on, with the same columns.",
        show_default="none: only the order of their scores is measured",
    ),
    base_encoder: str | None = typer.Option(
        None,
        "--base-encoder",
        metavar="MODEL",
        help="With --simple-baselines: encoder that is measured untrained, by its mean vectors and its tokens.",
        show_default="no encoder",
    ),
    dev: str | None = typer.Option(
        None,
        "--dev",
        metavar="TABLE",
        help="Labelled table, read as TABLE is, to choose threshold and calibration on; both are then measured on TABLE.",
        show_default="decision.json of student and teacher, if they have one",
    ),
    write_decision: bool = typer.Option(
        False, "--write-decision", help="With --dev: write decision.json into the student's folder."
    ),
    speed: bool = typer.Option(True, "--speed/--no-speed", help="Measure pairs per second."),
    precision: str = typer.Option(
        "fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of student and teacher."
    ),
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Measure a student, and its teacher if given, on a table: quality, agreement, speed and cache size."""
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.data.tables import load_table
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_outputs
    from distilmatch.models.trained_texts import check_reading
    from distilmatch.runtime import pick_device
    from distilmatch.training.run_folder import check_folder

    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    teachers = names(teacher) or []
    if teacher is not None and not teachers:
        raise ConfigError("--teacher names no model: give folders or hub names, separated by commas")
    asked = _teacher_config(teachers, precision, teacher_dtype, teacher_device, teacher_revision)
    check_folder(output, "--output")
    _check_decision(model, dev, write_decision)
    check_baseline_options(simple_baselines, train_table, base_encoder)
    inputs = {"the student": model, "the table": table, "--dev": dev}
    inputs |= {"--train-table": train_table, "--base-encoder": base_encoder}
    check_outputs({"--output": output}, inputs | {f"--teacher {name}": name for name in teachers})
    student = student_of(model)
    read = table_config(
        text_columns=text_columns,
        text_templates=text_templates,
        id_columns=id_columns,
        label_column=label_column,
        on_bad_rows=on_bad_rows,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
        sides=student.student.sides,
    )
    check_reading(student, table, read.text_templates)
    with nothing_set_aside() if dry_run else nullcontext():
        rows = load_table(table, read, student.task, side_names=student.student.side_names)
        dev_rows = None if dev is None else _dev_rows(student, dev, read, rows)
        train = None if train_table is None else load_table(train_table, read, student.task)
    baselines = {"simple_baselines": simple_baselines, "baselines_train": train, "baselines_encoder": base_encoder}
    _check_labels(student, rows, asked, table, simple_baselines, train)
    student.to(pick_device(device))  # type: ignore[arg-type]
    if dry_run:
        say_machine({"model": model, "teacher": teachers}, device, precision=precision_on(device, precision))
        say_table("table", table, rows, read, student.task)
        if dev_rows is not None:
            say_table("dev", dev, dev_rows, read, student.task)
        _plan(student, rows, dev_rows, asked, output, device, precision, speed, baselines)
        return
    report, decision = _measured(student, rows, dev_rows, asked, precision, device, measure_speed=speed, **baselines)
    report.save(Path(output))
    show(report)
    if decision is not None:
        _tell(decision, Path(model) if write_decision else None)
    side = student.student.side_names[0]
    say(report=str(Path(output) / "report.html"), tables=str(Path(output) / "report.md"))
    say_next("encode", model, "TABLE", "--side", side, *text_option(student), "--output", "FOLDER")


def _measured(
    student: DiPair,
    rows: TupleTable,
    dev: TupleTable | None,
    teacher: TeacherConfig | None,
    precision: str,
    device: str | None,
    **settings: Any,
) -> tuple[PairReport, Decision | None]:
    """The slow work, after all that can be refused was: the report, and the student's decision where there is dev."""
    from distilmatch.evaluation.pairs.decided import dev_decisions
    from distilmatch.evaluation.pairs.measure import evaluate_pairs
    from distilmatch.teachers import load_teacher

    loaded = None if teacher is None else load_teacher(teacher, device=device)
    how: dict[str, Any] = {"teacher": loaded, "precision": precision}
    decisions = None if dev is None else dev_decisions(student, dev, **how)
    report = evaluate_pairs(student, rows, decisions=decisions, **how, **settings)
    return report, None if decisions is None else decisions["student"]


def _check_decision(model: str, dev: str | None, write: bool) -> None:
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_writable
    from distilmatch.metrics.decisions import DECISION

    if not write:
        return
    if dev is None:
        raise ConfigError("--write-decision needs --dev, the table to choose threshold and calibration on")
    if not Path(model).is_dir():
        raise ConfigError(
            f"--write-decision writes into the student's folder, and {model} is none: save the student first"
        )
    check_writable(Path(model) / DECISION)


def _check_labels(
    student: DiPair,
    rows: TupleTable,
    teacher: TeacherConfig | None,
    table: str,
    simple_baselines: bool,
    train: TupleTable | None,
) -> None:
    """Checks that the table has labels to measure by, and the train table those that baselines are fitted on."""
    from distilmatch.errors import DataError
    from distilmatch.evaluation.pairs.simple import check_simple
    from distilmatch.teachers.ensemble import check_teacher
    from distilmatch.training.checks import check_dev

    if teacher is not None:
        check_teacher(teacher, student.task)
    if rows.gold is not None:
        check_dev(rows, student.task, table, has_teacher=False)
    elif teacher is None and rows.teacher is None:
        raise DataError(f"{table} has no labels to measure by: give --label-column or --teacher")
    if simple_baselines:
        check_simple(student.task, rows.sides, train)


def check_baseline_options(simple: bool, train_table: str | None, encoder: str | None) -> None:
    """Checks the options of the simple baselines before anything is loaded.

    Raises:
        ConfigError: one that needs `--simple-baselines`, or no such encoder folder.
        ModelError: a folder that holds no model.
    """
    from distilmatch.errors import ConfigError
    from distilmatch.training.checks import check_model

    if not simple and (train_table is not None or encoder is not None):
        raise ConfigError("--train-table and --base-encoder are for --simple-baselines")
    if encoder is not None:
        check_model(encoder)


def _dev_rows(student: DiPair, dev: str, read: TableConfig, rows: TupleTable) -> TupleTable:
    """The dev table, on which a threshold can be chosen."""
    import numpy as np

    from distilmatch.data.tables import load_table
    from distilmatch.errors import DataError
    from distilmatch.metrics.decisions import check_decides
    from distilmatch.training.checks import check_gold_decides

    check_decides(student.task, "--dev")
    table = load_table(dev, read, student.task, side_names=student.student.side_names)
    check_gold_decides(table, dev)
    if rows.gold is None or np.isnan(rows.gold).all():
        raise DataError(
            "--dev chooses a threshold that is measured on gold labels: name those of the table (--label-column)"
        )
    return table


def _tell(decision: Decision, folder: Path | None) -> None:
    """Prints the thresholds of a decision, and writes it where it is to be written."""
    from distilmatch.cli.tables import print_table
    from distilmatch.evaluation.pairs.wording import score_label, with_interval
    from distilmatch.metrics.decisions import DECISION

    header = ("threshold", "score above", "F1", "precision", "recall")
    rows = [
        (
            each.name,
            score_label(each.logit),
            *(with_interval(getattr(each, name), each.intervals.get(name)) for name in ("f1", "precision", "recall")),
        )
        for each in decision.thresholds
    ]
    print_table(header, rows, f"The student's thresholds, on {decision.rows:,} rows of dev (95 % interval)")
    if folder is not None:
        decision.save(folder)
        say(decision=str(folder / DECISION))


def _teacher_config(
    models: list[str], precision: str, dtype: str, device: str | None, revision: str | None
) -> TeacherConfig | None:
    """The teacher that the options describe; None where they name none."""
    from distilmatch.config.pairs import TeacherConfig
    from distilmatch.errors import ConfigError

    if models:
        settings = {
            "models": models,
            "precision": precision,
            "dtype": dtype,
            "device": device,
            "revision": names(revision) or [],
        }
        return TeacherConfig.from_dict(settings, "options")
    if dtype != "auto" or device or revision:
        raise ConfigError("--teacher-dtype, --teacher-device and --teacher-revision need a --teacher")
    return None


def _plan(
    student: DiPair,
    rows: TupleTable,
    dev: TupleTable | None,
    teacher: TeacherConfig | None,
    output: str,
    device: str | None,
    precision: str,
    speed: bool,
    baselines: dict[str, Any],
) -> None:
    from distilmatch.estimates import seconds_so_far
    from distilmatch.planning.evaluation import plan_evaluation

    estimate = plan_evaluation(
        student,
        rows,
        teacher,
        dev=dev,
        device=device,
        precision=precision,  # type: ignore[arg-type]
        speed=speed,
        start=seconds_so_far(),
        **baselines,
    )
    say_estimate(estimate, "measured", output)


def show(report: PairReport) -> None:
    """Prints a report's tables, its headline and what to do now."""
    from rich.console import Console

    from distilmatch.cli.tables import print_table
    from distilmatch.evaluation.pairs.markdown import headline, report_tables
    from distilmatch.evaluation.pairs.what_now import what_now

    for section in report_tables(report):
        print_table(section.header, section.rows, section.title)
    console = Console()
    console.print(headline(report), highlight=False, markup=False)
    for advice in what_now(report):
        console.print(f"- {advice.text}", highlight=False, markup=False)
