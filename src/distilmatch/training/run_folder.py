"""The output folder of a run: what it was asked for, on what it ran, and a guard against mixing two runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilmatch.config import PairRecipe
from distilmatch.data.tables import table_fingerprint
from distilmatch.embedding_config import EmbeddingRecipe
from distilmatch.errors import ConfigError
from distilmatch.fingerprint import fingerprint
from distilmatch.runtime import environment, write_json

_RECIPE = "recipe.yaml"
_ENVIRONMENT = "environment.json"
_LABEL_SETTINGS = ("train", "table", "task", "teacher", "encoder", "transfer", "seed")


class RecordedRun:
    """What the output folder of any run holds beside its results.

    Attributes:
        root: the folder; student: the finished student.
    """

    def __init__(self, recipe: PairRecipe | EmbeddingRecipe) -> None:
        self._settings = recipe
        self.root = Path(recipe.output)
        self.student = self.root / "student"

    def begun(self) -> Sequence[Path]:
        """The folders that a run of another recipe may not be mixed with."""
        raise NotImplementedError

    def sources(self) -> Mapping[str, Any]:
        """The data whose fingerprints are recorded, by name; None for what there is not."""
        raise NotImplementedError

    def claim(self) -> None:
        """Writes the recipe, or checks that the folder belongs to the same one.

        Raises:
            ConfigError: the folder holds a run of another recipe; the message says which settings differ.
        """
        path = self.root / _RECIPE
        if path.is_file():
            held = self._held(path)
            wanted = self._settings.to_dict()
            different = [name for name in wanted if name not in ("output", "device") and held.get(name) != wanted[name]]
            if different and any(folder.exists() for folder in self.begun()):
                raise ConfigError(
                    f"{self.root} holds a run of another recipe (different: {', '.join(different)}); "
                    "choose another output, or delete that folder to start anew"
                )
        self._settings.to_yaml(path)

    def _held(self, path: Path) -> dict[str, Any]:
        try:
            return type(self._settings).from_yaml(path).to_dict()
        except ConfigError as error:
            if any(folder.exists() for folder in self.begun()):
                raise ConfigError(
                    f"{self.root} holds a run of another kind of recipe: choose another output, or delete that folder"
                ) from error
            return {}

    def record(self) -> dict[str, Any]:
        """Writes versions, machine and the fingerprints of the data, and returns them."""
        known = {name: source for name, source in self.sources().items() if source is not None}
        facts = environment() | {"data": {name: table_fingerprint(source) for name, source in known.items()}}
        write_json(self.root / _ENVIRONMENT, facts)
        return facts

    def copy_records(self) -> None:
        """Puts recipe and environment beside the finished student."""
        for name in (_RECIPE, _ENVIRONMENT):
            shutil.copyfile(self.root / name, self.student / name)


class RunFolder(RecordedRun):
    """Paths of a pair job's output, and its records.

    Attributes:
        transfer: the labelled transfer set; labels: the soft-label cache; stage1, stage2: the stages; student: the
            finished student.
    """

    def __init__(self, recipe: PairRecipe) -> None:
        super().__init__(recipe)
        self.recipe = recipe
        self.transfer = self.root / "transfer"
        self.starts = self.root / "starts"
        self.stage1 = self.root / "stage1"
        self.stage2 = self.root / "stage2"
        cache = recipe.teacher.cache_folder if recipe.teacher else None
        self.labels = Path(cache) if cache else self.root / "labels"

    def begun(self) -> Sequence[Path]:
        """The folders of the stages."""
        return self.starts, self.stage1, self.stage2

    def sources(self) -> Mapping[str, Any]:
        """The three tables."""
        return {name: getattr(self.recipe, name) for name in ("train", "dev", "test")}

    def transfer_fingerprint(self) -> str:
        """What the transfer set depends on: the data, how it is read, the teacher and how blocks are made."""
        settings = self.recipe.to_dict()
        parts = {name: settings[name] for name in _LABEL_SETTINGS} | {"seed": self.recipe.transfer_seed}
        if self.recipe.teacher is not None and self.recipe.table.teacher_columns and self.recipe.transfer.rounds != 0:
            parts["given labels"] = "kept"  # once they were asked for again
        longest = max(self.recipe.student.max_lengths)  # of what is embedded to find neighbours
        unlabelled = [table_fingerprint(source) for source in self.recipe.unlabelled]
        return fingerprint(
            table_fingerprint(self.recipe.train), unlabelled, parts, longest, list(self.recipe.student.side_names)
        )


class EmbeddingRun(RecordedRun):
    """Paths of an embedding job's output, and its records.

    Attributes:
        corpus: the distinct unlabelled texts; embeddings: the cache of the teacher's; teacher: which of them this run
            reads; tokens: the student's token ids of the corpus; stage1, stage2: the stages; student: the finished one.
    """

    def __init__(self, recipe: EmbeddingRecipe) -> None:
        super().__init__(recipe)
        self.recipe = recipe
        self.corpus = self.root / "corpus"
        self.tokens = self.root / "tokens"
        self.teacher = self.root / "teacher.json"
        self.stage1 = self.root / "stage1"
        self.stage2 = self.root / "stage2"
        cache = recipe.teacher.cache_folder if recipe.teacher else None
        self.embeddings = Path(cache) if cache else self.root / "embeddings"

    def begun(self) -> Sequence[Path]:
        """The folders of the stages."""
        return self.stage1, self.stage2

    def sources(self) -> Mapping[str, Any]:
        """The files of the corpus, the labelled tables and the dev sets, by their names."""
        recipe = self.recipe
        corpus = recipe.corpus.sources if recipe.corpus else ()
        tables = [*recipe.labelled, *recipe.dev]
        return {source: source for source in (*corpus, *(table.source for table in tables))}
