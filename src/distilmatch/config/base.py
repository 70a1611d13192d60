"""`FrozenConfig`, the base of every config: reading what people write, and saying what was wrong with it and where."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from distilmatch.arguments import NUMBER_FORMATS, number_format
from distilmatch.errors import ConfigError, did_you_mean
from distilmatch.files import write_atomically
from distilmatch.yaml_files import WrittenFloat, WrittenInt, read_yaml, yaml_mapping

Place = Annotated[str, Field(min_length=1)]
"""A path or a name, which is never empty."""
Precision = Literal["auto", "fp32", "bf16"]
WeightDtype = Literal["auto", "fp32", "bf16", "fp16"]
"""In which numbers a model's weights are loaded; "auto" is fp32."""

_SHOWN = 60


def _known_format(name: str) -> str:
    if name not in NUMBER_FORMATS:
        raise ValueError(
            f"must be one of {', '.join(NUMBER_FORMATS)}, not {name!r}{did_you_mean(name, NUMBER_FORMATS)}"
        )
    return name


Reporter = Literal[
    "clearml", "codecarbon", "comet_ml", "dagshub", "flyte", "mlflow", "neptune", "swanlab", "trackio", "wandb"
]
"""Services that `transformers` can log to; TensorBoard is logged to always."""

NumberFormat = Annotated[str, BeforeValidator(number_format), AfterValidator(_known_format)]


# Folders of a run, beside those of its stages.
RESULT_FOLDERS = ("transfer", "mined", "starts", "labels", "student", "corpus", "tokens", "teacher", "embeddings")


class FrozenConfig(BaseModel):
    """Base of every config: immutable, unknown keys refused, round-trips to a dict and to YAML.

    Where a list is meant one value counts as a list of one, and where a text is meant a number counts as it was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise _explain(error, type(self), type(self).__name__) from error

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        meant = {}
        for key, value in settings.items():
            field = cls.model_fields.get(key) if isinstance(key, str) else None
            meant[key] = value if field is None else _meant(value, field.annotation)
            # What a recipe leaves out of a nested config keeps this config's default for it, not the nested class's own.
            if field is not None and isinstance(value, dict) and isinstance(field.default, FrozenConfig):
                meant[key] = {**field.default.model_dump(exclude_unset=True), **value}
        return meant

    # Pydantic's own mark of an initialiser that nested validation need not call: places stay exact in messages.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_dict(cls, settings: Any, source: str | None = None) -> Self:
        """The config that `settings` (nested dicts) describe.

        Raises:
            ConfigError: an unknown key or a value out of range; the message names it and `source`.
        """
        if not isinstance(settings, dict):
            raise ConfigError(
                f"{source or cls.__name__}: expected a mapping of settings, not {type(settings).__name__}"
            )
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise _explain(error, cls, source or cls.__name__) from error
        except RecursionError as error:
            raise ConfigError(f"{source or cls.__name__}: nested too deeply to be settings") from error

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-like values; `from_dict` gives the same config back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Reads a YAML file.

        Raises:
            ConfigError: no file there, no YAML in it, or settings that do not fit.
        """
        return cls.from_dict(cls.read_settings(path), str(path))

    @classmethod
    def read_settings(cls, path: str | Path) -> dict[str, Any]:
        """The settings of a YAML file, which are not looked at yet.

        Raises:
            ConfigError: no file there, no YAML in it, or no settings.
        """
        first = next((name for name, field in cls.model_fields.items() if field.is_required()), "seed")
        return yaml_mapping(read_yaml(path), str(path), f"{first}: ...")

    def to_yaml(self, path: str | Path) -> None:
        """Writes the config as YAML, atomically."""
        write_atomically(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with `changes`; fields are named as in the config, nested ones given whole."""
        return type(self).from_dict({**self.to_dict(), **_plain(changes)})

    @classmethod
    def known_settings(cls) -> dict[str, FieldInfo]:
        """The settings that may stand in this config, by name."""
        return cls.model_fields

    @classmethod
    def unknown_setting(cls, path: str) -> str | None:
        """What is wrong with a setting's name such as "stage2.epochs", with what may be meant; None where there is one."""
        known: type[FrozenConfig] | None = cls
        names = path.split(".")
        for number, name in enumerate(names, start=1):
            if known is not None and name.isdigit():  # an item of a list of configs
                continue
            if known is None or name not in known.known_settings():
                suggestion = "" if known is None else _suggestion(cls, known, name)
                return f"{'.'.join(names[:number])}: no such setting{suggestion}"
            known = _config_in(known.known_settings()[name].annotation)
        return None


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value.to_dict() if isinstance(value, FrozenConfig) else value for key, value in changes.items()}


# --- what was meant ------------------------------------------------------------------------------------------------


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have: those of a union, without None and without their metadata."""
    if typing.get_origin(annotation) is Annotated:
        return _choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(choice for member in typing.get_args(annotation) for choice in _choices(member))
    return () if annotation is type(None) else (annotation,)


def _item(kind: Any) -> Any:
    """The type of the items of a list of any length; None for what is no such list."""
    arguments = typing.get_args(kind)
    return arguments[0] if typing.get_origin(kind) is tuple and arguments[1:] == (...,) else None


def _config_in(annotation: Any) -> type[FrozenConfig] | None:
    for kind in _choices(annotation):
        inner = _item(kind)
        config_class = kind if inner is None else next(iter(_choices(inner)), None)
        if isinstance(config_class, type) and issubclass(config_class, FrozenConfig):
            return config_class
    return None


def _meant(value: Any, annotation: Any) -> Any:
    """`value` as what the setting wants, where that is beyond doubt; else as it is, for the message."""
    choices = _choices(annotation)
    items = [item for item in map(_item, choices) if item is not None]
    if items and len(choices) == 1:
        item = items[0]
        if isinstance(value, list | tuple):
            return [_as_text(entry, _choices(item)) for entry in value]
        if _is_one(value, _choices(item)):
            return [_as_text(value, _choices(item))]
    return _as_text(value, choices)


def _is_one(value: Any, wanted: tuple[Any, ...]) -> bool:
    """Whether `value` is certainly one item where a list is meant; a text with a comma may be several."""
    if isinstance(value, str):
        return "," not in value and any(kind is str or typing.get_origin(kind) is Literal for kind in wanted)
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, int | float):
        return bool({str, int, float} & set(wanted))
    if isinstance(value, Mapping | FrozenConfig):
        return any(isinstance(kind, type) and issubclass(kind, FrozenConfig) for kind in wanted)
    return isinstance(value, Path) and str in wanted


def _as_text(value: Any, wanted: tuple[Any, ...]) -> Any:
    if wanted != (str,):
        return value
    if isinstance(value, WrittenInt | WrittenFloat):
        return value.text
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return str(value) if isinstance(value, Path) else value


# --- messages ------------------------------------------------------------------------------------------------------


def _explain(error: ValidationError, cls: type[FrozenConfig], name: str) -> ConfigError:
    lines: dict[str, list[str]] = {}
    for problem in error.errors():
        where, owner, annotation = _place(cls, problem["loc"])
        message = _message(problem, cls, owner, annotation)
        if message not in lines.setdefault(where, []):
            lines[where].append(message)
    texts = [": ".join(text for text in (name, where, "; or ".join(said)) if text) for where, said in lines.items()]
    return ConfigError("\n".join(texts))


def _place(cls: type[FrozenConfig], loc: tuple[int | str, ...]) -> tuple[str, type[FrozenConfig], Any]:
    """Where a problem is, as a recipe names it; the config that it stands in; and the type that is wanted there."""
    names: list[str] = []
    owner: type[FrozenConfig] = cls
    annotation: Any = cls
    for step in loc:
        inner = _config_in(annotation)
        if isinstance(step, str) and inner is not None and step in inner.known_settings():
            owner, annotation = inner, inner.known_settings()[step].annotation
            names.append(step)
        elif isinstance(step, int):
            items = [item for item in map(_item, _choices(annotation)) if item is not None]
            fixed = [kind for kind in _choices(annotation) if typing.get_origin(kind) is tuple]
            annotation = items[0] if items else typing.get_args(fixed[0])[step] if fixed else annotation
            names.append(str(step))
        elif isinstance(step, str) and not _is_branch(step, annotation):
            owner = inner or owner
            names.append(step)
    return ".".join(names), owner, annotation


def _is_branch(step: str, annotation: Any) -> bool:
    # Pydantic names the member of a union that it tried.
    tried = len(_choices(annotation)) > 1 or "[" in step
    return tried and (step in ("int", "str", "float", "bool") or "[" in step)


def _message(problem: Any, cls: type[FrozenConfig], owner: type[FrozenConfig], annotation: Any) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"no such setting{_suggestion(cls, owner, str(problem['loc'][-1]))}"
    if kind == "missing":
        return "is missing: it has no default"
    if kind == "invalid_key":
        return f"the name of a setting is a word, not {_shown(value)}"
    if value is None and kind not in ("value_error", "assertion_error", "unknown_kind"):
        return (
            f"{_wanted(annotation)} is wanted, and nothing is given: leave it out for its default{_quoted(annotation)}"
        )
    if kind == "literal_error":
        choices = [choice for member in _choices(annotation) for choice in typing.get_args(member)]
        guess = did_you_mean(str(value), map(str, choices))
        return f"must be one of {', '.join(map(str, choices))}, not {_shown(value)}{guess}"
    if kind == "string_too_short":
        return "must not be empty"
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(value, annotation)
    return str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _wrong_text(value: Any, annotation: Any) -> str:
    if isinstance(value, bool):
        word = str(value).lower()
        return f"a text is wanted; YAML reads this word as the boolean {word}: quote it, as in '{word}'"
    return f"a text is wanted, not {_shown(value)}"


def _wrong_list(value: Any, annotation: Any) -> str:
    if isinstance(value, str) and "," in value:
        several = ", ".join(item.strip() for item in value.strip("[]() ").split(","))
        return f"is one text with a comma, {_shown(value)}: write [{several}] in brackets, or ['...'] for one"
    return f"{_wanted(annotation)} is wanted, not {_shown(value)}"


def _wrong_count(value: Any, annotation: Any) -> str:
    return f"{_wanted(annotation)} is wanted, not {_shown(value)}"


_SPECIAL: dict[str, Callable[[Any, Any], str]] = {
    "string_type": _wrong_text,
    "tuple_type": _wrong_list,
    "model_type": _wrong_count,
    "dict_type": _wrong_count,
    "int_type": _wrong_count,
    "int_parsing": _wrong_count,
    "int_from_float": _wrong_count,
    "float_type": _wrong_count,
    "float_parsing": _wrong_count,
    "bool_type": _wrong_count,
    "bool_parsing": _wrong_count,
    "too_long": _wrong_count,
}


def _wanted(annotation: Any) -> str:
    """What a setting takes, in words."""
    return " or ".join(dict.fromkeys(map(_word, _choices(annotation)))) or "a value"


def _word(kind: Any) -> str:
    simple = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    if kind in simple:
        return simple[kind]
    inner = _item(kind)
    if inner is not None:
        example = {str: "[a, b]", int: "[1, 2]", float: "[1.0, 2.0]"}.get(_choices(inner)[0])
        return f"a list in brackets{f', such as {example},' if example else ''}"
    if typing.get_origin(kind) is tuple:
        return f"a list of {len(typing.get_args(kind))} in brackets, such as [0, 1],"
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if isinstance(kind, type) and issubclass(kind, FrozenConfig):
        return f"a group of settings ({', '.join(list(kind.known_settings())[:4])}, ...)"
    return "a value"


def _quoted(annotation: Any) -> str:
    return ", or quote it if the word null is meant" if str in _choices(annotation) else ""


def _shown(value: Any) -> str:
    text = repr(value.text if isinstance(value, WrittenInt | WrittenFloat) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _suggestion(cls: type[FrozenConfig], owner: type[FrozenConfig], name: str) -> str:
    """What may be meant: a setting of nearly this name beside it, or one of exactly this name elsewhere."""
    close = did_you_mean(name, owner.known_settings(), 0.6)
    if close:
        return close
    places = [place for place in _all_places(cls) if place.rpartition(".")[2] == name]
    return (
        f"; did you mean {' or '.join(map(repr, places[:3]))}?"
        if places
        else did_you_mean(name, owner.known_settings())
    )


def _all_places(cls: type[FrozenConfig], before: str = "") -> Iterator[str]:
    for name, field in cls.known_settings().items():
        yield before + name
        inner = _config_in(field.annotation)
        if inner is not None and before.count(".") < 4:
            yield from _all_places(inner, f"{before}{name}.")


def check_stage_names(stages: Sequence[Any], usual: tuple[Any, Any], defaults: tuple[Any, Any]) -> None:
    """Refuses a list of stages beside `stage1` and `stage2`, and names that two stages or a result of the run have.

    Raises:
        ValueError: it says which.
    """
    if not stages:
        return
    if usual != defaults:
        raise ValueError("`stages` take the place of `stage1` and `stage2`: leave those out")
    names = [stage.name.lower() for stage in stages]
    taken = sorted({name for name in names if names.count(name) > 1} | ({*names} & {*RESULT_FOLDERS}))
    if taken:
        raise ValueError(f"two stages, or a stage and a folder of the run, cannot both be called {', '.join(taken)}")
