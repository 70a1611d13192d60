"""`distilmatch plan`: how long a job takes, what it needs, and what a smaller student would save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.options import Device, Kernel, ModelPath, TextColumns, Threads, one_of, say, student_of

if TYPE_CHECKING:
    from distilmatch.planning.planner import Plan, Work


def run(
    model: ModelPath,
    left: str = typer.Option(..., "--left", help="Texts of the first side, such as 1e6."),
    right: str = typer.Option(..., "--right", help="Texts of the second side."),
    candidates: str | None = typer.Option(None, "--candidates", help="Scored for each left text; without it all."),
    top_k: int = typer.Option(10, "--top-k", help="Kept for each left text."),
    encode: bool = typer.Option(True, "--encode/--encoded", help="Whether the texts have yet to be encoded."),
    sample: str | None = typer.Option(None, "--sample", metavar="TABLE", help="Pairs whose texts are like the job's."),
    text_columns: TextColumns = None,
    words: int = typer.Option(24, "--words", help="Without a sample: words of a text."),
    dtype: str = typer.Option(
        "float16", "--dtype", metavar="float32|float16|bfloat16|int8", help="How they are stored."
    ),
    machines: int = typer.Option(1, "--machines", help="Machines (or GPUs) like this one that share the left side."),
    smaller: bool = typer.Option(True, "--smaller/--no-smaller", help="Also plan smaller students."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the encoder."),
    kernel: Kernel = "auto",
    threads: Threads = None,
    device: Device = None,
    json_output: str | None = typer.Option(None, "--json", help="Also write the plan as JSON."),
) -> None:
    """Measure for some seconds, then say how long all-pairs or candidate scoring of so many texts takes."""
    from distilmatch.files import write_json
    from distilmatch.store.codec import STORED_DTYPES

    one_of("--dtype", dtype, STORED_DTYPES)
    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    from distilmatch.planning.planner import Work, calibrate, plan, smaller_settings

    work = Work(
        left=_count("--left", left),
        right=_count("--right", right),
        candidates=None if candidates is None else _count("--candidates", candidates),
        top_k=top_k,
        encode=encode,
        dtype=dtype,  # type: ignore[arg-type]
        machines=machines,
    )
    if json_output is not None:
        check_json(json_output, {"the student": model, "--sample": sample})
    student = student_of(model, device)
    texts = _texts(sample, text_columns, words) if encode else None
    settings: dict[str, Any] = {"texts": texts, "kernel": kernel, "threads": threads, "precision": precision}
    rates = calibrate(student, work, start=_seconds_so_far(), **settings)
    own = plan(student, work, rates)
    _show(own, work, rates.kernel)
    if machines == 1 and own.total_seconds > 3600:
        say(**{f"on_{n}_machines": _time(plan(student, _on(work, n), rates).total_seconds) for n in (10, 100)})
    others = []
    if smaller:
        others = smaller_settings(student, work, rates, **settings)
        typer.echo("\nSmaller students (quality not measured):")
        typer.echo(f"  {'':<28} {'time':>10} {'pairs/s':>14} {'disk':>10}")
        for name, one in [("this one", own), *((other.change, other.plan) for other in others)]:
            typer.echo(
                f"  {name:<28} {_time(one.total_seconds):>10} {one.pairs_per_s:>14,.0f} {_size(one.disk_bytes):>10}"
            )
    if json_output is not None:
        write_json(json_output, _as_json(own) | {"smaller": {other.change: _as_json(other.plan) for other in others}})


def check_json(output: str, inputs: dict[str, str | None]) -> None:
    """Refuses a JSON file that cannot be written, or is one of the inputs."""
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_outputs
    from distilmatch.training.run_folder import check_folder

    check_folder(Path(output).parent, "the folder of --json")
    if not output or Path(output).is_dir():
        raise ConfigError(f"--json is {output!r}: name a file")
    check_outputs({"--json": output}, inputs)


def _show(own: Plan, work: Work, kernel: str) -> None:
    say(
        kernel=kernel,
        pairs=own.pairs,
        time=_time(own.total_seconds) + (f" on each of {work.machines} machines" if work.machines > 1 else ""),
        **{f"  {stage}": _time(seconds) for stage, seconds in own.seconds.items()},
        pairs_per_s=int(own.pairs_per_s),
        bottleneck=own.bottleneck,
        disk=f"{_size(own.disk_bytes)} of representations, {_size(own.output_bytes)} of matches",
        memory=_size(own.memory_bytes),
    )


def _as_json(own: Plan) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(own) | {"total_seconds": own.total_seconds}


def _on(work: Work, machines: int) -> Work:
    from dataclasses import replace

    return replace(work, machines=machines)


def _count(option: str, value: str) -> int:
    from distilmatch.errors import ConfigError

    try:
        number = float(value.replace(",", "").replace("_", ""))
    except ValueError as error:
        raise ConfigError(f"{option} must be a number such as 1000000 or 1e6, not {value!r}") from error
    if not 1 <= number < 2**63:
        raise ConfigError(f"{option} must be at least 1, not {value!r}")
    return int(number)


def _texts(sample: str | None, text_columns: str | None, words: int) -> list[list[str]]:
    if sample is None:
        return [[" ".join(["word"] * words)] * 64] * 2
    from distilmatch.cli.options import table_config
    from distilmatch.data.tables import load_table

    table = load_table(sample, table_config(text_columns=text_columns))
    return [[table.texts[i] for i in table.rows[:, side]] for side in (0, 1)]


def _seconds_so_far() -> float:
    import time

    import psutil

    return time.time() - float(psutil.Process().create_time())


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 100):
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _size(amount: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= size:
            return f"{amount / size:,.1f} {unit}"
    return f"{amount / 1e3:,.1f} kB"
