"""Recipes as people write them: read as meant, or refused in one message that says what YAML made of it and where."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distilmatch.cli.options import load_recipe_of
from distilmatch.config.base import FrozenConfig
from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.ladder import LadderRecipe
from distilmatch.config.pairs import PairRecipe, TeacherConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.yaml_files import yaml_value

BASE = "train: x.jsonl\noutput: o\ntable: {text_columns: [a, b], label_column: label}\n"
BINARY = BASE + "task: {kind: binary}\n"
TEACHER = "teacher: {models: [x]}\n"
PAIR = BINARY + TEACHER
EMBEDDING = "corpus: {sources: [c.txt]}\nteacher: {models: [m]}\noutput: o\n"
LADDER = (
    "embedding: {corpus: {sources: [c.txt]}, teacher: {models: [m]}}\n"
    "pair: {train: x.jsonl, task: {kind: binary}, teacher: {models: [x]}}\noutput: o\n"
)
RECIPES: dict[type[FrozenConfig], str] = {PairRecipe: PAIR, EmbeddingRecipe: EMBEDDING, LadderRecipe: LADDER}


def _read(tmp_path: Path, text: str | bytes, kind: type[FrozenConfig] = PairRecipe) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return kind.from_yaml(path)


def _refusal(tmp_path: Path, text: str | bytes, kind: type[FrozenConfig] = PairRecipe) -> str:
    with pytest.raises(ConfigError) as refused:
        _read(tmp_path, text, kind)
    assert "recipe.yaml" in str(refused.value)
    return str(refused.value).partition("recipe.yaml")[2]


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        ("[no, maybe, yes]", ("no", "maybe", "yes")),
        ("[On, OFF, 'true']", ("On", "OFF", "true")),
        ("[0, 1, 2]", ("0", "1", "2")),
        ("[001, 010, 0x1F]", ("001", "010", "0x1F")),
        ("[1.50, 1_000, 1e3, -0]", ("1.50", "1_000", "1e3", "-0")),
        ("[1:30, 2026-01-02, .5]", ("1:30", "2026-01-02", ".5")),
    ],
)
def test_words_that_yaml_takes_for_something_else_are_read_as_written(
    tmp_path: Path, written: str, classes: tuple[str, ...]
) -> None:
    recipe = _read(tmp_path, BASE + TEACHER + f"task: {{kind: classification, classes: {written}}}\n")
    assert recipe.task.classes == classes
    recipe.to_yaml(tmp_path / "again.yaml")
    assert PairRecipe.from_yaml(tmp_path / "again.yaml") == recipe
    assert yaml.safe_load((tmp_path / "again.yaml").read_text())["task"]["classes"] == list(classes)  # quoted


@pytest.mark.parametrize(("written", "word"), [("[true, false]", "boolean true"), ("[True, x]", "boolean true")])
def test_a_boolean_where_a_name_is_meant_is_explained(tmp_path: Path, written: str, word: str) -> None:
    told = _refusal(tmp_path, BASE + TEACHER + f"task: {{kind: classification, classes: {written}}}\n")
    assert word in told and "quote" in told and "task.classes.0" in told


def test_nothing_where_a_name_is_meant_is_explained(tmp_path: Path) -> None:
    told = _refusal(tmp_path, BASE + TEACHER + "task: {kind: classification, classes: [a, null]}\n")
    assert "task.classes.1" in told and "nothing is given" in told and "quote" in told


@pytest.mark.parametrize("word", ["yes", "on", "true", "True"])
def test_booleans_are_still_booleans(tmp_path: Path, word: str) -> None:
    assert _read(tmp_path, PAIR + f"student: {{shared_encoder: {word}}}\n").student.shared_encoder is True


LISTS = [
    (kind, name)
    for kind in (TaskConfig, TableConfig, TeacherConfig, PairRecipe, EmbeddingRecipe)
    for name, field in kind.model_fields.items()
    if "tuple[" in str(field.annotation) and "..." in str(field.annotation)
]


@pytest.mark.parametrize(("kind", "name"), LISTS, ids=lambda value: getattr(value, "__name__", value))
def test_one_value_counts_as_a_list_of_one(kind: type[FrozenConfig], name: str) -> None:
    # Whatever else is wrong with it: one value and a list of it say the same, and neither is taken to pieces.
    values: dict[str, Any] = {name: {"source": "t", "kind": "pairs"} for name in ("labelled", "dev", "stages")}
    value = (values | {"further": 2.0}).get(name, "word")
    found = []
    for given_value in (value, [value], (value,)):
        try:
            found.append(str(kind.from_dict({name: given_value})))
        except ConfigError as error:
            found.append(str(error))
    assert found[0] == found[1] == found[2] and "'w'" not in found[0]


def test_one_model_without_brackets(tmp_path: Path) -> None:
    recipe = _read(tmp_path, BINARY + "teacher: {models: org/model}\nencoder: enc\nunlabelled: more.txt\n")
    assert recipe.teacher.models == ("org/model",) and recipe.encoder == ("enc",)
    assert recipe.unlabelled == ("more.txt",)
    assert TeacherConfig(models="org/model").models == ("org/model",)  # type: ignore[arg-type]
    assert TeacherConfig.from_dict({"models": Path("folder")}).models == ("folder",)
    embedding = _read(tmp_path, "corpus: {sources: c.txt}\nteacher: {models: m}\noutput: o\n", EmbeddingRecipe)
    assert embedding.corpus.sources == ("c.txt",) and embedding.teacher.models == ("m",)
    assert _read(tmp_path, PAIR + "seed: 3\noutput: 2026\n".replace("output: 2026\n", "")).seed == 3
    assert _read(tmp_path, PAIR.replace("output: o", "output: 2026")).output == "2026"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (BINARY + "teacher: {models: 'a, b'}\n", ["teacher.models", "[a, b]", "brackets"]),
        (PAIR.replace("[a, b]", "a"), ["table", "1 columns for 2 sides"]),
        (PAIR + "student: {kept_tokens: 16}\n", ["student", "`kept_tokens`", "each of the 2 sides"]),
        (PAIR + "student: {kept_tokens: many}\n", ["student.kept_tokens", "list in brackets", "'many'"]),
        (PAIR + "student: {kept_tokens: [1.5, 2]}\n", ["student.kept_tokens.0", "a whole number", "1.5"]),
        (BASE + TEACHER + "task: binary\n", ["task", "group of settings", "kind", "'binary'"]),
        (PAIR + "stage1:\n", ["stage1", "nothing is given", "leave it out"]),
        (PAIR + "stage1: {epochs: many}\n", ["stage1.epochs", "a number", "'many'"]),
        (PAIR + "stage1: {epochs: -1}\n", ["stage1.epochs", "greater than or equal to 0"]),
        (PAIR + "seed: [1]\n", ["seed", "a whole number", "[1]"]),
        (PAIR + "stage1: {epochs: .nan}\n", ["stage1.epochs", "finite"]),
        (PAIR.replace("output: o", "output: ''"), ["output", "must not be empty"]),
        (PAIR.replace("train: x.jsonl", "train: [x.jsonl]"), ["train", "a text", "['x.jsonl']"]),
        (BINARY.replace(", label_column: label", ""), ["name a `teacher`"]),
        (TEACHER, ["train: is missing", "task: is missing", "output: is missing"]),
        (BASE + TEACHER + "task: {kind: regression, label_range: [5, 1]}\n", ["task", "lowest < highest"]),
        (
            BASE + TEACHER + "task: {kind: regression, label_range: '1, 5'}\n",
            ["task.label_range", "[1, 5]", "brackets"],
        ),
        (BASE + TEACHER + "task: {kind: regression, label_range: 5}\n", ["task.label_range", "list of 2", "[0, 1]"]),
        (BASE + TEACHER + "task: {kind: regression, label_range: [1, 2, 3]}\n", ["task.label_range", "list of 2"]),
        (BASE + TEACHER + "task: {kind: clasification}\n", ["task.kind", "did you mean 'classification'?"]),
        (PAIR + "objective: {kind: margin-mse}\n", ["objective.kind", "did you mean 'margin_mse'?"]),
        (PAIR + "stage1: {epoch: 2}\n", ["stage1.epoch: no such setting", "did you mean 'epochs'?"]),
        (PAIR + "epochs: 2\n", ["epochs: no such setting", "'stage1.epochs' or 'stage2.epochs'"]),
        (PAIR + "studnet: {}\n", ["studnet: no such setting", "did you mean 'student'?"]),
        (PAIR + "3: x\n", ["a word, not '3'"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, parts: list[str]) -> None:
    told = _refusal(tmp_path, text)
    assert all(part in told for part in parts), told
    assert "pydantic" not in told and "Input should" not in told


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (EMBEDDING + "student: {layers: three}\n", ["student.layers", "a whole number or a list"]),
        (EMBEDDING + "student: {layer: 3}\n", ["student.layer: no such setting", "'layers'"]),
        (EMBEDDING + "labelled: [{source: t, kind: pair}]\n", ["labelled.0.kind", "did you mean 'pairs'?"]),
        (EMBEDDING + "labelled: [{sorce: t}]\n", ["labelled.0.sorce", "did you mean 'source'?"]),
        (EMBEDDING + "labelled: [t.jsonl]\n", ["labelled.0", "group of settings"]),
    ],
)
def test_places_in_lists_and_unions(tmp_path: Path, text: str, parts: list[str]) -> None:
    told = _refusal(tmp_path, text, EmbeddingRecipe)
    assert all(part in told for part in parts), told
    assert told.count("layers") <= 1 or "student.layers.int" not in told


@pytest.mark.parametrize("kind", RECIPES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed: 1\nseed: 2\n", "twice"),
        ("{base}output: p\n", "more than once"),
        ("seed:\n\t1\n", "spaces"),
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- train: x\n", "a list"),
        ("just a word\n", "a str"),
        ("seed: &a [*a]\n", "alias"),
        ("a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
        ), "aliases"),
        ("seed: " + "[" * 5000, "deep"),
        ("{" * 5000, "deep"),
        ("seed: !!python/object/apply:os.getcwd []\n", "tag"),
        ("seed: !unknown 3\n", "tag"),
        ("seed: !!bool maybe\n", "tag"),
        ("seed: [1\n", "line"),
        ("output: a: b\n", "quoted"),
        ("seed: 1\n---\nseed: 2\n", "document"),
        ("seed: \0\n", "no text file"),
        ("caf\u00e9: 1\n".encode("latin-1"), "UTF-8"),
        ("seed: 1\n".encode("utf-16"), "UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_one_message(
    tmp_path: Path, kind: type[FrozenConfig], text: str | bytes, part: str
) -> None:
    if isinstance(text, str):
        text = text.replace("{base}", RECIPES[kind])
    told = _refusal(tmp_path, text, kind)
    assert part in told and "\n" not in told and len(told) < 300, told


@pytest.mark.parametrize("path", ["missing.yaml", ".", "recipe.yaml/below"])
def test_a_recipe_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    (tmp_path / "recipe.yaml").write_text(PAIR)
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        PairRecipe.from_yaml(tmp_path / path)


def test_a_byte_order_mark_and_aliases_are_read(tmp_path: Path) -> None:
    text = "\ufeff" + PAIR + "stage1: &stage {blocks_per_batch: 3}\nstage2: {<<: *stage, epochs: 2}\n"
    recipe = _read(tmp_path, text)
    assert recipe.stage1.blocks_per_batch == recipe.stage2.blocks_per_batch == 3 and recipe.stage2.epochs == 2


def test_what_a_merge_brings_and_a_mapping_replaces_is_no_repeated_key() -> None:
    text = "d:\n  g:\n    one: &one\n      e: 1\n    two: &two\n      <<: *one\n      e: 2\ns:\n  <<: *two\n"
    assert yaml_value(text, "text") == {"d": {"g": {"one": {"e": 1}, "two": {"e": 2}}}, "s": {"e": 2}}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=12,
    )
)
def test_what_is_dumped_comes_back(value: Any) -> None:
    # PyYAML quotes whatever it would not read as a string, so that both readers agree on its own output.
    assert yaml_value(yaml.safe_dump(value), "text") == yaml.safe_load(yaml.safe_dump(value))


# --- --set ---------------------------------------------------------------------------------------------------------


def _set(tmp_path: Path, *changes: str, text: str = PAIR, kind: type[FrozenConfig] = PairRecipe) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe_of(kind, path, list(changes), {"seed": None})


def test_null_sets_nothing(tmp_path: Path) -> None:
    text = PAIR + "dev: dev.jsonl\nseed: 7\nstage2: {patience: 3}\n"
    recipe = _set(tmp_path, "dev=null", "stage2.patience=~", "table.label_column=", text=text)
    assert recipe.dev is None and recipe.stage2.patience is None and recipe.table.label_column is None
    assert recipe.seed == 7  # an option that is not given changes nothing
    with pytest.raises(ConfigError, match="train: a text is wanted, and nothing is given"):
        _set(tmp_path, "train=null")


def test_values_are_read_as_in_a_recipe(tmp_path: Path) -> None:
    recipe = _set(tmp_path, "task={kind: classification, classes: [no, 01]}", "teacher.models=m", "stage1.epochs=1e-1")
    assert recipe.task.classes == ("no", "01") and recipe.teacher.models == ("m",) and recipe.stage1.epochs == 0.1


def test_items_of_a_list_and_groups_that_are_shared(tmp_path: Path) -> None:
    text = EMBEDDING + "labelled: [{source: a, kind: pairs}, {source: b, kind: pairs}]\n"
    recipe = _set(tmp_path, "labelled.1.source=c", text=text, kind=EmbeddingRecipe)
    assert [one.source for one in recipe.labelled] == ["a", "c"]
    aliased = PAIR + "stage1: &s {blocks_per_batch: 3}\nstage2: *s\n"
    recipe = _set(tmp_path, "stage2.blocks_per_batch=5", text=aliased)
    assert (recipe.stage1.blocks_per_batch, recipe.stage2.blocks_per_batch) == (3, 5)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("stage1.epoch=2", ["--set 'stage1.epoch=2'", "no such setting", "did you mean 'epochs'?"]),
        ("epochs=2", ["no such setting", "'stage1.epochs'"]),
        ("task.kind.x=1", ["no such setting"]),
        ("stage1=2", ["stage1", "group of settings"]),
        ("stage1.epochs=", ["stage1.epochs", "nothing is given"]),
        ("stage1={epochs: 1, epochs: 2}", ["twice"]),
        ("stage1={", ["--set 'stage1={'", "YAML"]),
        ("seed=!!python/name:os.system", ["tag"]),
        ("seed", ["KEY=VALUE"]),
        ("=1", ["KEY=VALUE"]),
        ("objective.kind=klx", ["did you mean 'kl'?"]),
        ("train.0=x", ["train.0: no such setting"]),
    ],
)
def test_a_change_that_cannot_be_made_is_explained(tmp_path: Path, change: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        _set(tmp_path, change)
    assert all(part in str(refused.value) for part in parts), refused.value


def test_an_item_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = EMBEDDING + "labelled: [{source: a, kind: pairs}]\n"
    with pytest.raises(ConfigError, match=r"`labelled` is a list of 1: name one of it \(labelled.0\)"):
        _set(tmp_path, "labelled.source=c", text=text, kind=EmbeddingRecipe)
    with pytest.raises(ConfigError, match="a list of 1"):
        _set(tmp_path, "labelled.4.source=c", text=text, kind=EmbeddingRecipe)
    with pytest.raises(ConfigError, match="'a.jsonl' here, which has no settings"):
        _set(tmp_path, "dev.source=c", text=EMBEDDING + "dev: a.jsonl\n", kind=EmbeddingRecipe)


def test_every_config_explains_a_setting_that_it_has_not() -> None:
    seen = set()
    for module in ("config.pairs", "config.fine_tuning", "config.tables", "config.embeddings", "config.ladder"):
        for value in vars(__import__(f"distilmatch.{module}", fromlist=["x"])).values():
            if isinstance(value, type) and issubclass(value, FrozenConfig) and value is not FrozenConfig:
                seen.add(value)
                name = next(iter(value.model_fields))
                with pytest.raises(ConfigError, match=f"{name}x: no such setting; did you mean '{name}'"):
                    value.from_dict({f"{name}x": 1})
                with pytest.raises(ConfigError, match="no such setting"):
                    value(**{f"{name}x": 1})
    assert len(seen) > 15 and FineTuneConfig in seen
    assert typing.get_type_hints(TeacherConfig)["models"]
