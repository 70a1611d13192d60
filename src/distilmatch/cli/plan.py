"""`distilmatch plan`: how long a job takes, what it needs, and what a smaller student would save."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.arguments import NUMBER_FORMATS
from distilmatch.cli.dry_run import say_busy
from distilmatch.cli.options import (
    Device,
    Kernel,
    Memory,
    ModelPath,
    TextColumns,
    TextTemplates,
    Threads,
    bytes_of,
    duration,
    one_of,
    say,
    say_next,
    student_of,
    text_option,
)

if TYPE_CHECKING:
    from distilmatch.models import DiPair
    from distilmatch.planning.cluster import ClusterPlan
    from distilmatch.planning.planner import Plan, Rates, Work
    from distilmatch.store.folder import RepresentationFolder


def run(
    model: ModelPath,
    left: str = typer.Option(
        ..., "--left", help="Number of left texts, such as 1e6, or the folder of their representations."
    ),
    right: str = typer.Option(..., "--right", help="The same of the right texts."),
    candidates: str | None = typer.Option(
        None, "--candidates", help="Candidates to score for each left text.", show_default="all right texts"
    ),
    top_k: int = typer.Option(10, "--top-k", help="Matches to keep for each left text."),
    encode: bool = typer.Option(True, "--encode/--encoded", help="Whether the plan includes encoding the texts."),
    sample: str | None = typer.Option(
        None,
        "--sample",
        metavar="TABLE",
        help="Table of pairs with texts like those of the job.",
        show_default="made-up texts of --words words",
    ),
    text_columns: TextColumns = None,
    text_templates: TextTemplates = None,
    words: int = typer.Option(24, "--words", help="Words per text, where --sample is not given."),
    dtype: str = typer.Option(
        "fp16",
        "--dtype",
        metavar="|".join(NUMBER_FORMATS),
        help="Number format of the representations on disk.",
    ),
    machines: int = typer.Option(
        1, "--machines", help="Number of machines (or GPUs) like this one that share the left texts."
    ),
    price_per_hour: float | None = typer.Option(
        None, "--price-per-hour", metavar="PRICE", min=0.0, help="Price of a machine per hour.", show_default="no cost"
    ),
    storage: float = typer.Option(
        10.0, "--storage", metavar="GB/S", min=0.001, help="Speed of the storage that all --machines read, in GB/s."
    ),
    smaller: bool = typer.Option(True, "--smaller/--no-smaller", help="Also plan for smaller students."),
    memory: Memory = None,
    index: str = typer.Option("hnsw", "--index", metavar="flat|hnsw|ivf", help="How --candidates are found."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the encoder."),
    kernel: Kernel = "auto",
    threads: Threads = None,
    device: Device = None,
    json_output: str | None = typer.Option(
        None, "--json", help="Also write the plan to this JSON file.", show_default="no file"
    ),
) -> None:
    """Measure this machine for a few seconds, then estimate how long it takes to score so many texts."""
    from distilmatch.estimates import seconds_so_far
    from distilmatch.files import write_json
    from distilmatch.store.codec import stored_dtype

    number_format = stored_dtype("--dtype", dtype)
    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    one_of("--index", index, ("flat", "hnsw", "ivf"))
    from distilmatch.planning.planner import Work, calibrate, plan, smaller_settings

    folders = _folders(left, right)
    counts = [_count("--left", left), _count("--right", right)] if folders is None else [len(side) for side in folders]
    work = Work(
        left=counts[0],
        right=counts[1],
        candidates=None if candidates is None else _count("--candidates", candidates),
        top_k=top_k,
        encode=encode and folders is None,
        dtype=number_format,
        machines=machines,
        memory_bytes=bytes_of(memory),
        index=index,  # type: ignore[arg-type]
    )
    if json_output is not None:
        check_json(json_output, {"the student": model, "--sample": sample})
    typer.echo("Measuring this machine ...", err=True)
    student = student_of(model, device)
    texts = _texts(sample, text_columns, text_templates, words) if work.encode else None
    settings: dict[str, Any] = {"texts": texts, "kernel": kernel, "threads": threads, "precision": precision}
    rates = calibrate(student, work, folders=folders, start=seconds_so_far(), **settings)
    estimate = plan(student, work, rates)
    _show(estimate, work, rates.kernel)
    say_busy()
    cluster = None
    if machines > 1 and work.candidates is None:
        cluster = _played(student, work, rates, price_per_hour, storage)
    # The left side splits over machines, so one machine's rates tell the time of many.
    if machines == 1 and estimate.total_seconds > 3600:
        say(**{f"on_{n}_machines": duration(plan(student, _on(work, n), rates).total_seconds) for n in (10, 100)})
    others = []
    if smaller:
        others = smaller_settings(student, work, rates, **settings)
        typer.echo("\nSmaller students (quality not measured):")
        typer.echo(f"  {'':<28} {'time':>10} {'pairs/s':>14} {'disk':>10}")
        for name, row in [("this student", estimate), *((other.change, other.plan) for other in others)]:
            typer.echo(
                f"  {name:<28} {duration(row.total_seconds):>10} {row.pairs_per_s:>14,.0f} {_size(row.disk_bytes):>10}"
            )
    if json_output is not None:
        write_json(
            json_output,
            _as_json(estimate)
            | {"smaller": {other.change: _as_json(other.plan) for other in others}}
            | ({} if cluster is None else {"cluster": asdict(cluster)}),
        )
    side = student.student.side_names[0]
    written = [] if dtype == "fp32" else ["--dtype", dtype]
    say_next("encode", model, "TABLE", "--side", side, *text_option(student), *written, "--output", "FOLDER")


def check_json(output: str, inputs: dict[str, str | None]) -> None:
    """Refuses a JSON file that cannot be written, or is one of the inputs."""
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_outputs
    from distilmatch.training.run_folder import check_folder

    check_folder(Path(output).parent, "the folder of --json")
    if not output or Path(output).is_dir():
        raise ConfigError(f"--json must be a file name, not {output!r}")
    check_outputs({"--json": output}, inputs)


def _show(estimate: Plan, work: Work, kernel: str) -> None:
    say(
        kernel=kernel,
        pairs=estimate.pairs,
        time=duration(estimate.total_seconds) + (f" on each of {work.machines} machines" if work.machines > 1 else ""),
        **{f"  {stage}": duration(seconds) for stage, seconds in estimate.seconds.items()},
        pairs_per_s=int(estimate.pairs_per_s),
        bottleneck=estimate.bottleneck,
        disk=f"{_size(estimate.disk_bytes)} of representations, {_size(estimate.output_bytes)} of matches",
        memory=_size(estimate.memory_bytes),
    )
    if estimate.files_bytes:
        say(
            files=f"{_size(estimate.files_bytes)} of folded texts that memory does not hold, while the match is at work",
            passes=f"the left side is read {estimate.passes} times, once for each block of the right one",
        )


def _played(student: DiPair, work: Work, rates: Rates, price: float | None, storage: float) -> ClusterPlan:
    """The match on many machines, with failures and stragglers, played through and shown."""
    from distilmatch.planning.cluster import cluster_of, cluster_plan

    sizes, machines = cluster_of(student, work, rates, price_per_hour=price, storage_bytes_per_s=storage * 1e9)
    played = cluster_plan(sizes, min(work.top_k, work.right), machines)
    typer.echo(f"\nThe match on {machines.count:,} machines, played through:")
    facts: dict[str, Any] = {
        "time": f"{duration(played.seconds)}; {duration(played.ideal_seconds)} of it is scoring, evenly shared",
        "lost": f"{played.lost:,} of {played.strips:,} strips, to a failure each {machines.hours_between_failures:,.0f} h of a "
        "machine; they are scored again",
        "moved": f"{_size(played.bytes_moved)}; {played.read_over_least:.2f} times the least is read",
        "busy": f"{played.busy:.0%} of the machines, {played.driver_busy:.0%} of the driver",
        "saturates": f"from {played.saturates_at:,} machines on twice as many save less than a fifth: {played.limit}",
    }
    if played.cost is not None:
        facts["cost"] = f"{played.cost:,.2f}"
    say(**facts)
    return played


def _as_json(estimate: Plan) -> dict[str, object]:
    return asdict(estimate) | {"total_seconds": estimate.total_seconds}


def _on(work: Work, machines: int) -> Work:
    from dataclasses import replace

    return replace(work, machines=machines)


def _folders(left: str, right: str) -> list[RepresentationFolder] | None:
    """The folders of both sides; None where these are numbers."""
    from distilmatch.errors import ConfigError
    from distilmatch.store.opened import opened_folder

    found = [Path(value).is_dir() for value in (left, right)]
    if not any(found):
        return None
    if not all(found):
        raise ConfigError("give the folders of both sides, or the numbers of both: --left and --right are one of each")
    return [opened_folder(value) for value in (left, right)]


def _count(option: str, value: str) -> int:
    from distilmatch.errors import ConfigError

    try:
        number = float(value.replace(",", "").replace("_", ""))
    except ValueError as error:
        raise ConfigError(
            f"{option} must be a number such as 1000000 or 1e6, or a folder that encode wrote, not {value!r}"
        ) from error
    if not 1 <= number < 2**63:
        raise ConfigError(f"{option} must be at least 1, not {value!r}")
    return int(number)


def _texts(
    sample: str | None, text_columns: str | None, text_templates: list[str] | None, words: int
) -> list[list[str]]:
    if sample is None:
        return [[" ".join(["word"] * words)] * 64] * 2
    from distilmatch.cli.options import table_config
    from distilmatch.data.tables import load_table

    table = load_table(sample, table_config(text_columns=text_columns, text_templates=text_templates))
    return [[table.texts[i] for i in table.rows[:, side]] for side in (0, 1)]


def _size(amount: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= size:
            return f"{amount / size:,.1f} {unit}"
    return f"{amount / 1e3:,.1f} kB"
