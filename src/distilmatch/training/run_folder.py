"""The output folder of a run: what it was asked for, on what it ran, and a guard against mixing two runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.config.pairs import PairRecipe
from distilmatch.data.tables import table_fingerprint
from distilmatch.errors import ConfigError
from distilmatch.files import check_outputs, write_json
from distilmatch.fingerprint import fingerprint
from distilmatch.runtime import environment

_RECIPE = "recipe.yaml"
_ENVIRONMENT = "environment.json"
_MARK = "fingerprint.txt"
_LABEL_SETTINGS = ("train", "table", "task", "teacher", "encoder", "transfer", "seed")


def check_folder(place: str | Path, name: str) -> None:
    """Refuses, before anything is written, a place that cannot be a folder to write to.

    Args:
        name: what messages call it.

    Raises:
        ConfigError: it is empty, a file, below a file, or may not be written to.
    """
    text = str(place)
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{name} is {text!r}: name a folder")
    path = Path(text).expanduser()
    try:
        there = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
    except OSError as error:
        raise ConfigError(f"{name} is {path}, where nothing can be written: {error.strerror}") from error
    if not there.is_dir():
        raise ConfigError(f"{name} is {path}, but {there} is no folder: choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{name} is {path}, and {there} may not be written to: choose another place")


def _written_over(source: Any, results: Sequence[Path]) -> Path | None:
    """The one of `results` that a local file or folder is, or lies in."""
    if not isinstance(source, str | Path) or not os.path.lexists(Path(source).expanduser()):
        return None
    place = Path(os.path.realpath(Path(source).expanduser()))
    return next((own for own in results if place.is_relative_to(os.path.realpath(own))), None)


class RecordedRun:
    """What the output folder of any run holds beside its results.

    Attributes:
        root: the folder; student: the finished student; cache: where the teacher's answers are kept, where the recipe says.
    """

    def __init__(self, recipe: PairRecipe | EmbeddingRecipe) -> None:
        self._settings = recipe
        self.root = Path(recipe.output)
        self.student = self.root / "student"
        self.cache = recipe.teacher.cache_folder if recipe.teacher else None

    def begun(self) -> Sequence[Path]:
        """The folders that a run of another recipe may not be mixed with."""
        raise NotImplementedError

    def sources(self) -> Mapping[str, Any]:
        """The data whose fingerprints are recorded, by name; None for what there is not."""
        raise NotImplementedError

    def results(self) -> Sequence[Path]:
        """What the run writes, beside its records."""
        raise NotImplementedError

    def models(self) -> Mapping[str, Any]:
        """The models that the run begins with, by their settings."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuses, before anything is written, a folder that cannot be the run's.

        Raises:
            ConfigError: it is a file or below one, is (or lies inside) a model or table of the recipe, would replace one,
                or holds a run of another recipe.
        """
        check_folder(self.root, "`output`")
        inputs = {f"`{name}`": source for name, source in {**self.sources(), **self.models()}.items()}
        check_outputs({"`output`": self.root}, inputs)
        if self.cache is not None:
            check_folder(self.cache, "`teacher.cache_folder`")
            check_outputs({"`teacher.cache_folder`": self.cache}, inputs)
        for name, source in inputs.items():
            inside = _written_over(source, (*self.results(), self.root / _ENVIRONMENT))
            if inside is not None:
                raise ConfigError(f"{name} is {source}, in {inside}, which this run writes: choose another `output`")
        self._check_recipe()

    def _check_recipe(self) -> None:
        path = self.root / _RECIPE
        if not path.is_file():
            return
        held = self._held(path)
        wanted = self._settings.to_dict()
        different = [name for name in wanted if name not in ("output", "device") and held.get(name) != wanted[name]]
        if different and any(folder.exists() for folder in self.begun()):
            raise ConfigError(
                f"{self.root} holds a run of another recipe (different: {', '.join(different)}); "
                "choose another output, or delete that folder to start anew"
            )

    def claim(self) -> None:
        """Writes the recipe, or checks that the folder belongs to the same one.

        Raises:
            ConfigError: the folder holds a run of another recipe; the message says which settings differ.
        """
        self._check_recipe()
        path = self.root / _RECIPE
        # The same recipe as a user wrote it, with its comments, stays.
        if not path.is_file() or self._held(path) != self._settings.to_dict():
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
        self.labels = Path(self.cache) if self.cache else self.root / "labels"

    def begun(self) -> Sequence[Path]:
        """The folders of the stages."""
        return self.starts, self.stage1, self.stage2

    def results(self) -> Sequence[Path]:
        """The folders of transfer set, stages and student."""
        return self.transfer, self.starts, self.stage1, self.stage2, self.student

    def models(self) -> Mapping[str, Any]:
        """Teachers and encoders, and the unlabelled texts."""
        recipe = self.recipe
        teachers = recipe.teacher.models if recipe.teacher else ()
        lists = (("unlabelled", recipe.unlabelled), ("teacher.models", teachers), ("encoder", recipe.encoder))
        return {f"{name}[{i}]": one for name, several in lists for i, one in enumerate(several)}

    def sources(self) -> Mapping[str, Any]:
        """The three tables."""
        return {name: getattr(self.recipe, name) for name in ("train", "dev", "test")}

    def has_transfer(self) -> bool:
        """Whether the labelled transfer set of this recipe is there."""
        mark = self.transfer / _MARK
        return mark.is_file() and mark.read_text(encoding="utf-8") == self.transfer_fingerprint()

    def mark_transfer(self) -> None:
        """Says that the transfer set is whole, and of what."""
        (self.transfer / _MARK).write_text(self.transfer_fingerprint(), encoding="utf-8")

    def transfer_fingerprint(self) -> str:
        """What the transfer set depends on: the data, how it is read, the teacher and how blocks are made."""
        settings = self.recipe.to_dict()
        parts = {name: settings[name] for name in _LABEL_SETTINGS} | {"seed": self.recipe.transfer_seed}
        if self.recipe.teacher is not None and self.recipe.table.teacher_columns and self.recipe.transfer.rounds != 0:
            parts["given labels"] = "kept"  # once they were asked for again
        if self.recipe.teacher is not None and self.recipe.task.kind == "classification":
            parts["classes"] = "by name"  # once the teacher's were taken by position
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
        self.embeddings = Path(self.cache) if self.cache else self.root / "embeddings"

    def begun(self) -> Sequence[Path]:
        """The folders of the stages."""
        return self.stage1, self.stage2

    def results(self) -> Sequence[Path]:
        """The folders of corpus, token ids, stages and student."""
        return self.corpus, self.tokens, self.teacher, self.stage1, self.stage2, self.student

    def models(self) -> Mapping[str, Any]:
        """Teachers, their embeddings, and the model that the student begins with."""
        recipe = self.recipe
        named: dict[str, Any] = {} if recipe.student.encoder is None else {"student.encoder": recipe.student.encoder}
        for name in ("models", "embeddings"):
            for i, one in enumerate(getattr(recipe.teacher, name) if recipe.teacher else ()):
                named[f"teacher.{name}[{i}]"] = one
        return named

    def sources(self) -> Mapping[str, Any]:
        """The files of the corpus, the labelled tables and the dev sets, by their names."""
        recipe = self.recipe
        corpus = recipe.corpus.sources if recipe.corpus else ()
        tables = [*recipe.labelled, *recipe.dev]
        return {source: source for source in (*corpus, *(table.source for table in tables))}
