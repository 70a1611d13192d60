"""Which weights of a teacher are loaded, and how: what the configs of both jobs' teachers have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def check_revisions(models: Sequence[str], revision: Sequence[str | None]) -> None:
    """Checks that there is a revision for each model, or none at all.

    Raises:
        ValueError: another number of them.
    """
    if revision and len(revision) != len(models):
        raise ValueError(
            f"`revision` needs one commit or tag for each of the {len(models)} `models` (null for a folder), it has "
            f"{len(revision)}"
        )


def revision_of(revision: Sequence[str | None], number: int) -> str | None:
    """The revision of a teacher's model by its number; None where none is named."""
    return revision[number] if revision else None


def with_weights(settings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The settings of a teacher that its answers may depend on.

    Runs that began before there were `revision` and the dtype of weights go on: without one they are left out.

    Args:
        settings: of the config.
        dtype: the name of the setting that is the dtype of the weights.
    """
    needed = {name: value for name, value in settings.items() if name != "device"}
    if needed[dtype] == "auto":
        del needed[dtype]
    if not needed["revision"]:
        del needed["revision"]
    return needed
