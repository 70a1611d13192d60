"""A student's decision: thresholds and calibration that lie beside its weights, and go with them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from distilmatch.errors import ConfigError, DistilmatchError, ModelError
from distilmatch.metrics.decisions import DECISION, Decision, load_decision, read_decision, weights_fingerprint

logger = logging.getLogger(__name__)


class KeptDecision:
    """The decision of a student in memory: one that it was given, or the one of the folder that it was loaded from."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder
        self._decision: Decision | None = None

    def give(self, decision: Decision | None) -> None:
        """Takes a decision that belongs to the weights as they are in memory; None forgets all."""
        self.folder, self._decision = None, decision

    def get(self) -> Decision:
        """The decision; that of a folder is read when it is first asked for.

        Raises:
            ConfigError: there is none.
            ModelError: it is damaged, or belongs to other weights.
        """
        if self._decision is None:
            if self.folder is None:
                raise ConfigError(
                    "this student has no decision, which holds thresholds and calibration: set `decision` to what "
                    "`decide(task, gold, logits)` gives on dev, or give the threshold as a number"
                )
            self._decision = load_decision(self.folder)
        return self._decision

    def save(self, folder: Path) -> None:
        """Writes it beside weights that were just saved, if it is theirs; an older decision there goes otherwise."""
        kept = self._decision if self.folder is None else self._read()
        if kept is not None and (self.folder is None or kept.weights == weights_fingerprint(folder)):
            kept.save(folder)
            return
        if kept is not None:
            logger.warning("the weights are not those that %s was made for: it is not saved with them", DECISION)
        (folder / DECISION).unlink(missing_ok=True)

    def _read(self) -> Decision | None:
        try:
            return None if self.folder is None else read_decision(self.folder)
        except ModelError as error:
            logger.warning("%s", error)
            return None


def decision_folder(place: str, hub: dict[str, Any]) -> str | None:
    """Where the decision of a student of this folder or hub name lies; None where it has none, or cannot be asked."""
    if Path(place).is_dir():
        return place
    from transformers.utils import cached_file

    try:
        found = cached_file(
            place, DECISION, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False, **hub,
        )  # fmt: skip
    except (OSError, ValueError, DistilmatchError):
        return None
    return None if found is None else str(Path(found).parent)
