"""YAML as people write it: every word as it stands there, a key once, and one message for all that is no recipe.

YAML 1.1 takes `no`, `on`, `010`, `1:30` and `2026-01-02` for a boolean, numbers and a date. Here only `true` and `false` are
booleans, as in YAML 1.2, dates are words, and a number remembers how it was written, for settings that want text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from distilmatch.errors import ConfigError

_MOST_VALUES = 100_000  # with every alias put in
_BOM = "\ufeff"


class WrittenInt(int):
    """A whole number that knows how it was written, such as 010."""

    text: str


class WrittenFloat(float):
    """A number that knows how it was written, such as 1.50."""

    text: str


class _Loader(yaml.SafeLoader):
    pass


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    is_int = node.tag.endswith(":int")
    try:
        value = (loader.construct_yaml_int if is_int else loader.construct_yaml_float)(node)  # type: ignore[no-untyped-call]
    except (ValueError, OverflowError):
        return node.value
    made = (WrittenInt if is_int else WrittenFloat)(value)
    made.text = node.value
    return made


# A copy of the rules by which a plain word gets its type: without dates, and true and false alone as booleans.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":timestamp", ":bool"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


class _Refused(Exception):
    """What is wrong, with its line."""


def yaml_value(text: str, source: str) -> Any:
    """What a YAML text means: mappings, lists, strings, numbers (that know how they were written), true, false and None.

    Args:
        source: what messages call it.

    Raises:
        ConfigError: no YAML, a key twice, a tag such as `!!python/object`, aliases that refer to themselves or stand for very
            much, or nesting too deep to be read.
    """
    loader = None
    try:
        loader = _Loader(text.removeprefix(_BOM))
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)  # type: ignore[no-untyped-call]
    except _Refused as error:
        raise ConfigError(f"{source}, {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {_reason(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{source} is nested too deeply to be settings") from error
    except (ValueError, OverflowError, AttributeError, LookupError) as error:  # of a tag, such as !!bool maybe
        raise ConfigError(f"{source} is not valid YAML: a value does not fit its tag ({error})") from error
    finally:
        if loader is not None:
            loader.dispose()  # type: ignore[no-untyped-call]


def read_yaml(path: str | Path) -> Any:
    """What a YAML file means; see `yaml_value`.

    Raises:
        ConfigError: no file there, bytes that are not UTF-8, or what `yaml_value` refuses.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"cannot read the recipe {path}: it is not UTF-8 (byte {error.start}); save it as UTF-8 text"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot read the recipe {path}: {reason}") from error
    return yaml_value(text, str(path))


def yaml_mapping(value: Any, source: str, example: str) -> dict[str, Any]:
    """`value`, which must be the settings of a recipe.

    Raises:
        ConfigError: it is nothing, a list or a word.
    """
    if isinstance(value, dict):
        return value
    fault = "is empty" if value is None else f"holds a {type(value).__name__}, no settings"
    raise ConfigError(f"{source} {fault}: a recipe is a YAML mapping, lines such as `{example}`")


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; an alias is another name of the same node. No mapping has a key twice."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise _Refused(f"line {node.start_mark.line + 1}: an alias refers to what it stands in; write it out")
        return known[id(node)]
    known[id(node)] = -1
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        children = [child for pair in node.value for child in pair]
    total = 1 + sum(_size(child, known) for child in children)
    if total > _MOST_VALUES:
        raise _Refused(
            f"line {node.start_mark.line + 1}: this stands for more than {_MOST_VALUES:,} values; settings are few: write "
            "them without so many aliases"
        )
    known[id(node)] = total
    return total


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    # Before anything is constructed: then merges (`<<`) stand beside a mapping's own keys, which may replace theirs.
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        line = key.start_mark.line + 1
        if key.value in seen:
            raise _Refused(
                f"line {line}: `{key.value}` stands here twice, on line {seen[key.value]} before: a key more than once "
                "would hide the first one; keep one of them"
            )
        seen[key.value] = line


def _shown(character: Any) -> str:
    return ascii(chr(character) if isinstance(character, int) else character)


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).splitlines()[0]
    line = "" if mark is None else f"line {mark.line + 1}: "
    if "\\t" in problem:
        return f"{line}there is a tab; indent with spaces"
    if "could not determine a constructor" in problem:
        return f"{line}{problem.split('tag', 1)[1].strip()} is a tag: a recipe holds plain values, without tags"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is {_shown(error.character)}, which no text file holds"
    context = getattr(error, "context", None)
    hint = (
        "; a text that holds ': ' or begins with a special sign must be quoted" if "mapping values" in problem else ""
    )
    return f"{line}{problem}{f' ({context})' if context else ''}{hint}"
