"""The output folder of a run: what it was asked for, on what it ran, and a guard against mixing two runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from distilmatch.config import PairRecipe
from distilmatch.data.tables import table_fingerprint
from distilmatch.errors import ConfigError
from distilmatch.fingerprint import fingerprint
from distilmatch.runtime import environment, write_json

_RECIPE = "recipe.yaml"
_ENVIRONMENT = "environment.json"
_LABEL_SETTINGS = ("train", "table", "task", "teacher", "encoder", "transfer", "seed")


class RunFolder:
    """Paths of a run's output, and its records.

    Attributes:
        transfer: the labelled transfer set; labels: the soft-label cache; stage1, stage2: the stages; student: the
            finished student.
    """

    def __init__(self, recipe: PairRecipe) -> None:
        self.recipe = recipe
        self.root = Path(recipe.output)
        self.transfer = self.root / "transfer"
        self.starts = self.root / "starts"
        self.stage1 = self.root / "stage1"
        self.stage2 = self.root / "stage2"
        self.student = self.root / "student"
        cache = recipe.teacher.cache_folder if recipe.teacher else None
        self.labels = Path(cache) if cache else self.root / "labels"

    def transfer_fingerprint(self) -> str:
        """What the transfer set depends on: the data, how it is read, the teacher and how blocks are made."""
        settings = self.recipe.to_dict()
        parts = {name: settings[name] for name in _LABEL_SETTINGS} | {"seed": self.recipe.transfer_seed}
        longest = max(self.recipe.student.max_lengths)  # of what is embedded to find neighbours
        unlabelled = [table_fingerprint(source) for source in self.recipe.unlabelled]
        return fingerprint(
            table_fingerprint(self.recipe.train), unlabelled, parts, longest, list(self.recipe.student.side_names)
        )

    def claim(self) -> None:
        """Writes the recipe, or checks that the folder belongs to the same one.

        Raises:
            ConfigError: the folder holds a run of another recipe; the message says which settings differ.
        """
        path = self.root / _RECIPE
        if path.is_file():
            held = PairRecipe.from_yaml(path).to_dict()
            wanted = self.recipe.to_dict()
            different = [name for name in wanted if name not in ("output", "device") and held[name] != wanted[name]]
            if different and any(path.exists() for path in (self.starts, self.stage1, self.stage2)):
                raise ConfigError(
                    f"{self.root} holds a run of another recipe (different: {', '.join(different)}); "
                    "choose another output, or delete that folder to start anew"
                )
        self.recipe.to_yaml(path)

    def record(self) -> dict[str, Any]:
        """Writes versions, machine and the fingerprints of the data, and returns them."""
        sources = {name: getattr(self.recipe, name) for name in ("train", "dev", "test")}
        facts = environment() | {
            "data": {name: table_fingerprint(source) for name, source in sources.items() if source is not None}
        }
        write_json(self.root / _ENVIRONMENT, facts)
        return facts

    def copy_records(self) -> None:
        """Puts recipe and environment beside the finished student."""
        for name in (_RECIPE, _ENVIRONMENT):
            shutil.copyfile(self.root / name, self.student / name)
