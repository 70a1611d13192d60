"""Encoders by name: what a model folder must hold, and sentence-transformers models with a pooling put on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from distilmatch.arguments import one_of
from distilmatch.config.base import WeightDtype
from distilmatch.errors import ModelError, did_you_mean
from distilmatch.files import read_json
from distilmatch.fingerprint import fingerprint, fingerprint_tensors, fingerprint_tokenizer
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.tokenizers import check_vocabulary
from distilmatch.runtime import pick_device

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What a configuration says that no embedding depends on.
_NOT_A_SETTING = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")
    + ("sentence_transformers", "use_cache", "problem_type", "_attn_implementation", "_commit_hash")
)


_DTYPES: dict[WeightDtype, torch.dtype] = {
    "auto": torch.float32,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


def check_model_folder(folder: str | Path) -> None:
    """Refuses a local folder from which no model can be loaded, before anything of it is.

    Args:
        folder: that of a transformer, of a cross-encoder, of a student, or a sentence-transformers folder.

    Raises:
        ModelError: it is missing, empty or a file; its config.json is missing, unreadable or of an unknown kind; its
            weights are missing, cut short or a pickle, which could run code.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ModelError(f"no model folder at {str(folder)!r}: it is {'a file' if place.exists() else 'missing'}")
    try:
        if not any(place.iterdir()):
            raise ModelError(
                f"{str(folder)!r} is empty and holds no config.json: give the folder that the model was saved to"
            )
        modules = _modules(place)
        for transformer in [place] if modules is None else modules:
            _check_transformer(transformer)
    except OSError as error:
        raise ModelError(f"{str(folder)!r} cannot be read: {error.strerror or error}") from error


def _modules(folder: Path) -> list[Path] | None:
    """The folders of the transformers of a sentence-transformers folder; None where it is none."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    try:
        modules = read_json(path)
        return [folder / module["path"] for module in modules if str(module["type"]).endswith(".Transformer")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path} is not what sentence-transformers writes ({error}): save the model again") from error


def _check_transformer(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(inner.parent.name for inner in folder.glob("*/config.json"))
        hint = f" (its folder {inside[0]!r} does)" if inside else ""
        raise ModelError(
            f"{folder} holds no config.json{hint}: give the folder that a training run or save_pretrained wrote"
        )
    try:
        config = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} cannot be read ({error}): copy it again from where the model came from") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, not a model's settings: copy it again")
    _check_kind(path, config)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        _refuse_weights(folder)
    for file in files:
        safetensors_shapes(file)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_index(index)


def _check_kind(path: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if isinstance(kind, str) and (kind == "dipair" or kind in CONFIG_MAPPING):
        return
    if "auto_map" in config:
        raise ModelError(
            f"{path}: a {kind!r} model needs code from its own folder, which is never run here: name another"
        )
    known = did_you_mean(kind, CONFIG_MAPPING.keys()) if isinstance(kind, str) else ""
    raise ModelError(
        f"{path}: `model_type` {kind!r} is not known to the installed transformers{known}: give a folder that save_pretrained "
        "wrote, or install a newer transformers"
    )


def _refuse_weights(folder: Path) -> None:
    pickles = sorted(
        path.name for pattern in _PICKLES for path in folder.glob(pattern) if path.name != "training_args.bin"
    )
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when it is read: convert it once, where "
            "you trust it, with transformers (AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)), which writes "
            "model.safetensors"
        )
    raise ModelError(f"{folder} holds no weights (no *.safetensors): save or copy the model again")


def _check_index(path: Path) -> None:
    try:
        named = set(read_json(path)["weight_map"].values())
        missing = sorted(str(name) for name in named if not (path.parent / str(name)).is_file())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy it again") from None
    if missing:
        raise ModelError(f"{path.parent} lacks {missing[0]}, a part of its weights: copy it again")


def safetensors_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file; no tensor is read.

    Raises:
        ModelError: the file is cut short or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is cut short or damaged ({error}): copy it again from where it came from") from error


def load_sentence_encoder(
    name: str | Path,
    *,
    pooling: str = "auto",
    device: str | torch.device | None = None,
    dtype: WeightDtype = "auto",
    revision: str | None = None,
) -> SentenceTransformer:
    """A `SentenceTransformer` in evaluation mode, in fp32 unless `dtype` says otherwise.

    Args:
        name: a sentence-transformers folder or hub name; or a transformer, on which a pooling is put.
        pooling: "auto" is the model's own, the mean where it has none; "mean", "cls", "max" or "lasttoken" take the
            model's transformer alone and pool it so.
        dtype, revision: as of `loaded_model`.

    Raises:
        ConfigError: no such folder, device or revision.
        ModelError: the model cannot be loaded, has another model's tokenizer, or no transformer to pool.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    target = device if isinstance(device, torch.device) else pick_device(device)
    advice = "Give a sentence-transformers folder, that of a transformer, or the name of one on the Hugging Face hub"
    model = loaded_model(
        SentenceTransformer, name, target, "a sentence encoder", advice, dtype=dtype, revision=revision
    )
    if isinstance(model[0], Transformer):
        check_vocabulary(name, model[0].tokenizer, input_embeddings(model[0].model))
    if pooling != "auto":
        first = model[0]
        if not isinstance(first, Transformer):
            raise ModelError(
                f"{str(name)!r} is a {type(first).__name__} model, which has no tokens to pool by {pooling}"
            )
        width = first.get_embedding_dimension()
        model = SentenceTransformer(
            modules=[first, Pooling(width, pooling_mode=pooling)],
            device=str(target),
            prompts=model.prompts,
            default_prompt_name=model.default_prompt_name,
        )
    return model.eval()


def loaded_model(
    kind: Callable[..., Any],
    name: str | Path,
    device: torch.device,
    shown: str,
    advice: str,
    *,
    dtype: WeightDtype = "auto",
    revision: str | None = None,
    **settings: Any,
) -> Any:
    """A sentence-transformers model of class `kind`, from safetensors; no code of its own is run.

    Args:
        shown: what messages call such a model; advice: what they say to give.
        dtype: of its weights; "auto" is fp32, whatever they were saved in.
        revision: a commit or tag on the hub; None for what the hub has now.
        settings: for the class's initialiser.

    Raises:
        ConfigError: no such folder or revision, or a folder with a revision.
        ModelError: the model cannot be loaded.
    """
    one_of("dtype", dtype, tuple(_DTYPES))
    path = resolve_model(name, revision=revision)
    if Path(path).is_dir():
        check_model_folder(path)
    try:
        return kind(
            path,
            device=str(device),
            trust_remote_code=False,
            revision=revision,
            model_kwargs={"dtype": _DTYPES[dtype], "use_safetensors": True},
            **settings,
        )
    except Exception as error:  # whatever a stranger's folder makes of it
        raise ModelError(f"cannot load {str(name)!r} as {shown}: {first_line(error)} {advice}") from error


def first_line(error: BaseException) -> str:
    """What an error of another library says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def input_embeddings(model: Any) -> nn.Embedding | None:
    """The table in which a transformer looks its tokens up; None where it has none, or one of another kind."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return table if isinstance(table, nn.Embedding) else None


def encoder_width(model: SentenceTransformer) -> int:
    """How many numbers an embedding has.

    Raises:
        ModelError: the model does not say.
    """
    width = model.get_embedding_dimension()
    if width is None:
        raise ModelError("the model does not say how wide its embeddings are: end it with a Pooling or Dense module")
    return int(width)


def encoder_fingerprint(model: SentenceTransformer, **settings: Any) -> str:
    """A hash of all that an embedding depends on besides the text: weights, tokenizer, modules and `settings`."""
    config = getattr(model[0], "config", None)
    shape = config.to_dict() if config is not None else {}
    tokenizer = model.tokenizer
    # A static encoder has a bare `tokenizers.Tokenizer`.
    known = tokenizer.to_str() if hasattr(tokenizer, "to_str") else fingerprint_tokenizer(tokenizer)
    return fingerprint(
        "sentence encoder",
        fingerprint_tensors(model.state_dict()),
        known,
        [[type(module).__name__, repr(getattr(module, "get_config_dict", dict)())] for module in model.children()],
        {name: repr(value) for name, value in shape.items() if name not in _NOT_A_SETTING},
        {
            "prompts": repr(model.prompts),
            "prompt": repr(model.default_prompt_name),
            "truncated": repr(model.truncate_dim),
        },
        repr(model.max_seq_length),
        settings,
    )
