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
from distilmatch.runtime import environment

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
MARK = "fingerprint.txt"


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
        there = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
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
    return next((result for result in results if place.is_relative_to(os.path.realpath(result))), None)


def _anywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe without where it runs, writes and reports to."""
    kept = {name: value for name, value in settings.items() if name not in ("output", "device", "report_to")}
    if isinstance(kept.get("teacher"), dict):
        kept["teacher"] = {name: value for name, value in kept["teacher"].items() if name != "device"}
    return kept


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

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.root / name

    def stages(self) -> tuple[Path, ...]:
        """The folders of the recipe's stages, in order."""
        return tuple(self.stage(stage.name) for stage in self._settings.all_stages)

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
            inside = _written_over(source, (*self.results(), self.root / ENVIRONMENT))
            if inside is not None:
                raise ConfigError(f"{name} is {source}, in {inside}, which this run writes: choose another `output`")
        self._check_recipe()

    def _check_recipe(self) -> None:
        path = self.root / RECIPE
        if not path.is_file():
            return
        held, wanted = _anywhere(self._held(path)), _anywhere(self._settings.to_dict())
        different = [name for name in wanted if held.get(name) != wanted[name] and name != "further"]
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
        path = self.root / RECIPE
        # The same recipe as a user wrote it, with its comments, stays.
        if not path.is_file() or self._held(path) != self._settings.to_dict():
            self._settings.to_yaml(path)

    def check_shared(self) -> None:
        """Refuses, in a further process of `torchrun`, other settings or other data than the first process has recorded.

        Raises:
            ConfigError: they differ; the message says in what.
        """
        held, own = self._held(self.root / RECIPE), self._settings.to_dict()
        different = [name for name in own if name not in ("output", "device") and held.get(name) != own[name]]
        if different:
            raise ConfigError(
                f"this process was given something else than the first one (different: {', '.join(different)}): all processes of "
                "`torchrun` need the same recipe, and in memory the same rows and teacher"
            )

    def _held(self, path: Path) -> dict[str, Any]:
        try:
            return type(self._settings).from_yaml(path).to_dict()
        except ConfigError as error:
            if any(folder.exists() for folder in self.begun()):
                raise ConfigError(
                    f"{self.root} holds a run of another kind of recipe: choose another output, or delete that folder"
                ) from error
            return {}

    def record(self, **more: Any) -> dict[str, Any]:
        """Writes versions, machine, the fingerprints of the data and `more`, and returns them."""
        known = {name: source for name, source in self.sources().items() if source is not None}
        facts = environment() | {"data": {name: table_fingerprint(source) for name, source in known.items()}} | more
        write_json(self.root / ENVIRONMENT, facts)
        return facts

    def copy_records(self) -> None:
        """Puts recipe and environment beside the finished student."""
        for name in (RECIPE, ENVIRONMENT):
            shutil.copyfile(self.root / name, self.student / name)
