"""`distilmatch evaluate-sts`: sentence encoders side by side on semantic textual similarity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distilmatch.cli.options import Device, DryRun, names, one_of, say

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Sentence-transformers folders or hub names.", show_default=False),
]


def run(
    models: Models,
    data: Path | None = typer.Option(
        None, "--data", help="Folder with sts12/, ..., stsb/ and sick/, each with test.jsonl."
    ),
    mteb: bool = typer.Option(
        False, "--mteb", help="Instead of --data: take the tasks from the hub, with the package mteb."
    ),
    output: str = typer.Option(..., "--output", help="Folder for sts.json, sts.md and sts.png."),
    tasks: str | None = typer.Option(
        None, "--tasks", metavar="A,B", help="Tasks to measure; by default all that are there."
    ),
    retrieval: Path | None = typer.Option(
        None, "--retrieval", help="Also measure retrieval: folder with documents.jsonl, queries.jsonl and qrels.jsonl."
    ),
    split: str = typer.Option("test", "--split", metavar="test|dev|train", help="Split of the tasks to measure on."),
    speed: bool = typer.Option(True, "--speed/--no-speed", help="Measure texts per second."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the models."),
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Measure sentence encoders on STS: Spearman's correlation by task, alignment, uniformity, size and speed."""
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
        say(**{task.name: len(task.table) for task in sts_tasks}, models=len(models))
        typer.echo("Nothing was measured or written (--dry-run).")
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
    )
    report.save(Path(output))
    _show(report.header(), report.rows())
    say(report=str(Path(output) / "sts.md"), plot=str(Path(output) / "sts.png"))


def _show(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Column, Table

    console = Console()

    def table(lines: list[list[str]]) -> Table:
        made = Table(*(Column(name, justify="right" if i else "left", no_wrap=True) for i, name in enumerate(lines[0])))
        for line in lines[1:]:
            made.add_row(*line)
        return made

    # A row a model where that fits, else a column a model; nothing is ever cut.
    usual = table([header, *rows])
    turned = table([list(column) for column in zip(header, *rows, strict=True)])
    widths = [
        Measurement.get(console, console.options.update(max_width=10_000), layout).maximum for layout in (usual, turned)
    ]
    chosen, width = (usual, widths[0]) if widths[0] <= max(console.width, widths[1]) else (turned, widths[1])
    Console(width=max(console.width, width)).print(chosen)
