"""The folder of a pair run: transfer set, labels, stages and the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilmatch.config.pairs import PairRecipe
from distilmatch.data.tables import table_fingerprint
from distilmatch.files import read_json
from distilmatch.fingerprint import fingerprint
from distilmatch.training.pairs.inputs import PairInputs
from distilmatch.training.run_folder import ENVIRONMENT, MARK, RECIPE, RecordedRun
from distilmatch.types import TupleTable

_BESIDE = ("mined", "mixtures", "mixture_alpha")  # no setting of the transfer set itself
_LABEL_SETTINGS = ("train", "table", "task", "teacher", "encoder", "transfer", "seed")


class RunFolder(RecordedRun):
    """Paths of a pair job's output, and its records.

    Attributes:
        inputs: what it reads.
        transfer: the labelled transfer set; mined: the labelled pairs that are mined after the first stage; mixtures: of
            labelled rows, with the teacher's labels.
        labels: the soft-label cache; student: the finished student.
    """

    def __init__(self, recipe: PairRecipe, inputs: PairInputs | None = None) -> None:
        super().__init__(recipe)
        self.recipe = recipe
        self.inputs = PairInputs.of(recipe) if inputs is None else inputs
        self.transfer = self.root / "transfer"
        self.mined = self.root / "mined"
        self.mixtures = self.root / "mixtures"
        self.starts = self.root / "starts"
        self.labels = Path(self.cache) if self.cache else self.root / "labels"

    def record_pairs(self, train: TupleTable | None, dev: TupleTable | None) -> None:
        """As `record`, with `teacher_scale`: what the teacher's labels of the tables were taken for.

        Args:
            train: None where it is not read again; what an earlier run of the folder has recorded of it stays.
        """
        try:
            scales = dict(read_json(self.root / ENVIRONMENT).get("teacher_scale", {}))
        except (OSError, ValueError, AttributeError, TypeError):
            scales = {}
        for name, table in (("train", train), ("dev", dev)):
            if table is not None and table.teacher_scale is not None:
                scales[name] = table.teacher_scale
        self.record(**({"teacher_scale": scales} if scales else {}))

    def further(self) -> tuple[float, ...]:
        """Those of the recipe, or of the run in the folder where they are the same and more."""
        path, wanted = self.root / RECIPE, self.recipe.further
        held = self._held(path).get("further", ()) if path.is_file() else ()
        return tuple(held) if tuple(held[: len(wanted)]) == wanted else wanted

    def begun(self) -> Sequence[Path]:
        """The folders of the stages."""
        return self.starts, self.mined, self.mixtures, *self.stages()

    def results(self) -> Sequence[Path]:
        """The folders of transfer set, stages and student."""
        return self.transfer, self.mined, self.mixtures, self.starts, *self.stages(), self.student

    def models(self) -> Mapping[str, Any]:
        """Teachers and encoders, and the unlabelled texts."""
        recipe = self.recipe
        teachers = recipe.teacher.models if recipe.teacher else ()
        lists = (("unlabelled", recipe.unlabelled), ("teacher.models", teachers), ("encoder", recipe.encoder))
        return {f"{name}[{i}]": model for name, several in lists for i, model in enumerate(several)}

    def sources(self) -> Mapping[str, Any]:
        """The three tables."""
        return {name: getattr(self.inputs, name) for name in ("train", "dev", "test")}

    def has_transfer(self) -> bool:
        """Whether the labelled transfer set of this recipe is there."""
        mark = self.transfer / MARK
        return mark.is_file() and mark.read_text(encoding="utf-8") == self.transfer_fingerprint()

    def mark_transfer(self) -> None:
        """Says that the transfer set is whole, and of what."""
        (self.transfer / MARK).write_text(self.transfer_fingerprint(), encoding="utf-8")

    def has_mined(self) -> bool:
        """Whether the labelled mined pairs of this recipe are there."""
        mark = self.mined / MARK
        return mark.is_file() and mark.read_text(encoding="utf-8") == self._mined_fingerprint()

    def mark_mined(self) -> None:
        """Says that the mined pairs are whole, and of what."""
        (self.mined / MARK).write_text(self._mined_fingerprint(), encoding="utf-8")

    def has_mixtures(self) -> bool:
        """Whether the labelled mixtures of this recipe are there."""
        mark = self.mixtures / MARK
        return mark.is_file() and mark.read_text(encoding="utf-8") == self._mixtures_fingerprint()

    def mark_mixtures(self) -> None:
        """Says that the mixtures are whole, and of what."""
        (self.mixtures / MARK).write_text(self._mixtures_fingerprint(), encoding="utf-8")

    def _mixtures_fingerprint(self) -> str:
        transfer = self.recipe.transfer
        return fingerprint(self.transfer_fingerprint(), transfer.mixtures, transfer.mixture_alpha)

    def _mined_fingerprint(self) -> str:
        return fingerprint(self.transfer_fingerprint(), self.recipe.transfer.mined)

    def transfer_fingerprint(self) -> str:
        """What the transfer set depends on: the data, how it is read, the teacher and how blocks are made."""
        settings = self.recipe.to_dict()
        needed = {name: settings[name] for name in _LABEL_SETTINGS} | {"seed": self.recipe.transfer_seed}
        needed["transfer"] = {name: value for name, value in needed["transfer"].items() if name not in _BESIDE}
        needed["table"] = self.recipe.table.key_settings()
        if self.recipe.teacher is not None:
            needed["teacher"] = self.recipe.teacher.label_settings()
        if self.recipe.teacher is not None and self.recipe.table.teacher_columns and self.recipe.transfer.rounds != 0:
            needed["given labels"] = "kept"  # once they were asked for again
        if self.recipe.teacher is not None and self.recipe.task.kind == "classification":
            needed["classes"] = "by name"  # once the teacher's were taken by position
        longest = max(self.recipe.student.max_lengths)  # of what is embedded to find neighbours
        unlabelled = [table_fingerprint(source) for source in self.recipe.unlabelled]
        return fingerprint(
            table_fingerprint(self.inputs.train), unlabelled, needed, longest, list(self.recipe.student.side_names)
        )
