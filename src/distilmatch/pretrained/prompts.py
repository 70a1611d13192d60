"""The texts that a family puts before a query and before a document (E5, BGE, Qwen), as its folder names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilmatch.files import read_json, write_json

_SETTINGS = "config_sentence_transformers.json"
_QUERY = ("query", "s2p_query", "search_query")
_DOCUMENT = ("document", "passage", "corpus", "search_document")


def saved_prompts(folder: str | Path) -> tuple[str, str] | None:
    """The prompts of a sentence-transformers folder, of a query and of a document; None where it names neither."""
    return query_and_document(named_prompts(folder))


def named_prompts(folder: str | Path) -> dict[str, str]:
    """All prompts of a sentence-transformers folder that are texts, by their names; none of any other folder."""
    prompts = _settings(folder).get("prompts")
    return texts_of(prompts) if isinstance(prompts, dict) else {}


def default_prompt(folder: str | Path) -> str | None:
    """The name of the prompt that a sentence-transformers folder uses where none is named; None where there is none."""
    name = _settings(folder).get("default_prompt_name")
    return name if isinstance(name, str) else None


def _settings(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / _SETTINGS
    if not path.is_file():
        return {}
    try:
        settings = read_json(path)
    except (OSError, ValueError):  # what reads the folder itself will say so
        return {}
    return settings if isinstance(settings, dict) else {}


def texts_of(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """Those prompts of a model that are a text; sentence-transformers keeps empty ones beside them."""
    return {name: text for name, text in prompts.items() if isinstance(text, str) and text}


def save_as_sentence_encoder(folder: str | Path, width: int, prompts: Mapping[str, str], default: str) -> None:
    """Makes a saved transformer a sentence-transformers folder that takes the mean of the tokens and puts a prompt before
    each text; `AutoModel` loads it as before, without the prompt.

    Args:
        width: of the tokens' vectors.
        prompts: by their names.
        default: the name of the one that is used where none is named.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    place = Path(folder)
    pooling = place / "1_Pooling"
    pooling.mkdir(parents=True, exist_ok=True)
    Pooling(width, pooling_mode="mean").save(str(pooling))
    kinds = (("", "Transformer"), (pooling.name, "Pooling"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    write_json(place / "modules.json", modules)
    write_json(place / _SETTINGS, {"prompts": dict(prompts), "default_prompt_name": default})


def query_and_document(prompts: Mapping[str, str | None]) -> tuple[str, str] | None:
    """The prompts of a query and of a document among all that a model has, by the names that models give them; None where
    there is no text in either.
    """
    known = {name.lower(): text for name, text in prompts.items() if isinstance(text, str)}
    query, document = (next((known[name] for name in names if name in known), "") for names in (_QUERY, _DOCUMENT))
    return (query, document) if query or document else None
