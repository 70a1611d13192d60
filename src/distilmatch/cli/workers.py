"""Options of commands that several processes or machines share, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distilmatch.cli.options import bytes_of

if TYPE_CHECKING:
    import torch

    from distilmatch.jobs.running.base import Runner

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Share the work among N processes; each takes the --memory that is given.",
        show_default="this process; with --on ray all that the cluster has room for",
    ),
]
On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="local|ray|ray://HOST:PORT",
        help="Where the workers are: on this machine, or on a Ray cluster whose machines read the same folders.",
    ),
]


def runner_of(workers: int | None, on: str, threads: int | None, device: torch.device) -> Runner | None:
    """The workers that were asked for; None for this process alone.

    Raises:
        ConfigError: a place that is none, or without a cluster.
        MissingExtraError: Ray is not installed.
    """
    from distilmatch.errors import ConfigError, did_you_mean

    if on == "local":
        from distilmatch.jobs.running.local import LocalRunner

        return None if workers is None or workers == 1 else LocalRunner(workers, threads)
    if on != "ray" and not on.startswith("ray://"):
        raise ConfigError(f"--on must be local, ray or ray://HOST:PORT, not {on!r}{did_you_mean(on, ('local', 'ray'))}")
    from distilmatch.jobs.running.ray import RayRunner

    address = None if on == "ray" else on
    return RayRunner(address, workers, threads or 1, gpus=1.0 if device.type == "cuda" else 0.0)


def memory_each(memory: float | None, workers: int | None, on: str, device: torch.device) -> int | None:
    """Bytes for the folded texts of a worker: what was asked for, else this machine's share for one of its workers."""
    if memory is not None or workers is None or on != "local":
        return bytes_of(memory)
    from distilmatch.runtime import free_memory

    return free_memory(device) // 4 // workers


def facts_of(runner: Runner | None, read_over_least: float | None = None) -> dict[str, Any]:
    """What is said of the workers."""
    facts: dict[str, Any] = {} if runner is None else {"workers": runner.name}
    if read_over_least is not None:
        facts["read"] = f"{read_over_least:.2f} times the least that so many workers must fold"
    return facts
