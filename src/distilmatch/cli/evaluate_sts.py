"""`distilmatch evaluate-sts`: sentence encoders side by side on semantic textual similarity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distilmatch.cli.dry_run import precision_on, say_estimate, say_machine, say_rows
from distilmatch.cli.options import Device, DryRun, names, one_of, say, say_next

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Sentence-transformers folders or hub names.", show_default=False),
]


def run(
    models: Models,
    data: Path | None = typer.Option(
        None,
        "--data",
        help="Folder with sts12/, ..., stsb/ and sick/, each with test.jsonl.",
        show_default="required, unless --mteb is given",
    ),
    mteb: bool = typer.Option(
        False, "--mteb", help="Instead of --data: take the tasks from the hub, with the package mteb."
    ),
    output: str = typer.Option(..., "--output", help="Folder for sts.json, sts.md and sts.png."),
    tasks: str | None = typer.Option(
        None, "--tasks", metavar="A,B", help="Tasks to measure.", show_default="all that are there"
    ),
    retrieval: Path | None = typer.Option(
        None,
        "--retrieval",
        help="Also measure retrieval: folder with documents.jsonl, queries.jsonl and qrels.jsonl.",
        show_default="no retrieval",
    ),
    simple_baselines: bool = typer.Option(
        False, "--simple-baselines", help="Also measure the TF-IDF cosines of words and letters, which read no model."
    ),
    split: str = typer.Option("test", "--split", metavar="test|dev|train", help="Split of the tasks to measure on."),
    speed: bool = typer.Option(True, "--speed/--no-speed", help="Measure texts per second."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the models."),
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Measure sentence encoders on STS: Spearman's correlation by task, alignment, uniformity, size and speed."""
    from distilmatch.cli.tables import print_table
    from distilmatch.errors import ConfigError
    from distilmatch.evaluation.sts.measure import evaluate_sts
    from distilmatch.evaluation.sts.retrieval import load_retrieval
    from distilmatch.evaluation.sts.tasks import load_mteb_tasks, load_sts_tasks
    from distilmatch.files import check_outputs
    from distilmatch.training.checks import check_model
    from distilmatch.training.run_folder import check_folder

    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    one_of("--split", split, ("test", "dev", "train"))
    if mteb == (data is not None):
        raise ConfigError("give the tasks: either --data FOLDER or --mteb")
    check_folder(output, "--output")
    inputs = {f"MODEL {name}": name for name in models} | {"--data": data, "--retrieval": retrieval}
    check_outputs({"--output": output}, inputs)
    for name in models:
        check_model(name)
    sts_tasks = load_mteb_tasks(names(tasks), split) if data is None else load_sts_tasks(data, names(tasks), split)
    documents = None if retrieval is None else load_retrieval(retrieval)
    if dry_run:
        from distilmatch.estimates import seconds_so_far
        from distilmatch.planning.evaluation import plan_sts

        say_machine({"models": models}, device, precision=precision_on(device, precision))
        typer.echo("")
        say(**{task.name: len(task.table) for task in sts_tasks}, models=len(models))
        say_rows([dict(zip(("left", "right"), sts_tasks[0].table.tuples()[0], strict=True))])
        texts = [text for task in sts_tasks for text in task.table.texts]
        if documents is not None:
            texts += [*documents.documents, *documents.queries]
        distinct = list(dict.fromkeys(texts))
        estimate = plan_sts(
            models,
            distinct,
            device=device,
            precision=precision,  # type: ignore[arg-type]
            speed=speed,
            start=seconds_so_far(),
            baseline_tables=[task.table for task in sts_tasks] if simple_baselines else (),
        )
        say_estimate(estimate, "measured", output)
        return
    # The slow work starts here; a wrong input was refused above.
    report = evaluate_sts(
        models,
        sts_tasks,
        device=device,
        precision=precision,  # type: ignore[arg-type]
        measure_speed=speed,
        split=split,
        retrieval=documents,
        simple_baselines=simple_baselines,
    )
    report.save(Path(output))
    print_table(report.header(), report.rows())
    say(report=str(Path(output) / "sts.md"), plot=str(Path(output) / "sts.png"))
    say_next("train", "RECIPE.yaml", "--set", f"encoder=[{models[-1]}]")
