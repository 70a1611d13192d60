"""What an embedding job reads: the texts, tables and teacher that its recipe names, or that a program has in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilmatch.config.embeddings import EmbeddingRecipe, EmbeddingTeacherConfig
from distilmatch.data.corpus import corpus_source
from distilmatch.data.tables import IN_MEMORY, described_table
from distilmatch.errors import ConfigError
from distilmatch.teachers.in_memory import described_teacher, loaded_embedding_teacher
from distilmatch.teachers.sentence import EmbeddingTeacher, SentenceTeacher


@dataclass(frozen=True, kw_only=True)
class EmbeddingInputs:
    """Texts, tables and teacher of a job.

    Attributes:
        corpus, labelled, dev: a path, a hub dataset's name or a table in memory for each source and table of the recipe.
        teacher: a loaded one; None where the recipe names it, or there is none.
    """

    corpus: tuple[Any, ...] = ()
    labelled: tuple[Any, ...] = ()
    dev: tuple[Any, ...] = ()
    teacher: EmbeddingTeacher | None = None

    @classmethod
    def of(cls, recipe: EmbeddingRecipe) -> EmbeddingInputs:
        """Those that the recipe names."""
        return cls(
            corpus=recipe.corpus.sources if recipe.corpus is not None else (),
            labelled=tuple(table.source for table in recipe.labelled),
            dev=tuple(table.source for table in recipe.dev),
        )


def with_inputs(
    recipe: EmbeddingRecipe | Mapping[str, Any],
    *,
    corpus: Any = None,
    labelled: Any = None,
    dev: Any = None,
    teacher: Any = None,
) -> tuple[EmbeddingRecipe, EmbeddingInputs]:
    """The recipe of a job whose texts, tables or teacher may be in memory, and what it reads.

    What is in memory takes the place of what the recipe names. In the recipe, and so in the records of the run, a short
    description with a fingerprint stands for it: other rows, or another teacher, are another run.

    Args:
        recipe: it may leave out what is given here; a mapping is read as `EmbeddingRecipe.from_dict` does.

    Raises:
        ConfigError: settings that do not go together, or another number of tables than the recipe describes.
        DataError: a table that cannot be read.
    """
    settings = recipe.to_dict() if isinstance(recipe, EmbeddingRecipe) else dict(recipe)
    sources: dict[str, tuple[Any, ...]] = {}
    if corpus is not None:
        sources["corpus"] = (corpus_source(corpus),)
        settings["corpus"] = {**(settings.get("corpus") or {}), "sources": [described_table(sources["corpus"][0])]}
    for name, given in (("labelled", labelled), ("dev", dev)):
        if given is not None:
            sources[name] = tuple(_several(given))
            settings[name] = _with_sources(name, settings.get(name), sources[name])
    loaded = None
    if isinstance(teacher, str | Path):
        settings["teacher"] = {**(settings.get("teacher") or {}), "models": [str(teacher)]}
    elif isinstance(teacher, EmbeddingTeacherConfig):
        settings["teacher"] = teacher.to_dict()
    elif teacher is not None:
        # How a model embeds is known once the settings are read.
        asked = {**(settings.get("teacher") or {}), "models": [IN_MEMORY], "embeddings": []}
        loaded = loaded_embedding_teacher(teacher, EmbeddingTeacherConfig.from_dict(asked))
        # Only a model has layers or a tokenizer that a student can begin with.
        place = "models" if isinstance(loaded, SentenceTeacher) else "embeddings"
        settings["teacher"] = {**asked, "models": [], place: [described_teacher(teacher, loaded)]}
    merged = EmbeddingRecipe.from_dict(settings)
    named = EmbeddingInputs.of(merged)
    read = {name: sources.get(name, getattr(named, name)) for name in ("corpus", "labelled", "dev")}
    return merged, EmbeddingInputs(**read, teacher=loaded)


def _several(given: Any) -> list[Any]:
    """The tables of an argument: one, of which a list of mappings holds the rows, or a list of tables."""
    read = list(given) if isinstance(given, Iterator) else given
    if not isinstance(read, list | tuple) or all(isinstance(item, Mapping) for item in read):
        return [read]
    return [list(table) if isinstance(table, Iterator) else table for table in read]


def _with_sources(name: str, described: Any, tables: tuple[Any, ...]) -> list[dict[str, Any]]:
    """How the tables are read, as the recipe says of each in turn, with their descriptions."""
    entries = [described] if isinstance(described, Mapping) else list(described or [{} for _ in tables])
    if len(entries) != len(tables):
        raise ConfigError(
            f"`{name}`: {len(tables)} table(s) given, and the recipe says of {len(entries)} how to read them: give one table for "
            f"each entry of its `{name}`, in their order"
        )
    return [{**entry, "source": described_table(table)} for entry, table in zip(entries, tables, strict=True)]
