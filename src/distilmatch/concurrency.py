"""What lets several threads use one model: no call changes what another reads.

A module's training mode and a fast tokenizer's truncation are state of the object; a call that sets them changes what a call
beside it computes. Here a call gets a view or a copy of its own instead.
"""

from __future__ import annotations

import copy
import threading
import weakref
from functools import partial
from types import MethodType
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)

_tokenizers: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def evaluation_view(module: Module) -> Module:
    """`module` in evaluation mode: itself where it is so already, else other modules around the same tensors.

    The view shares every parameter and buffer with `module` and costs no memory to speak of; `module` and its parts keep
    their training mode. Make it for a call and drop it: parameters that are replaced later are not seen by it.
    """
    if not any(submodule.training for submodule in module.modules()):
        return module
    return own_view(module)


def own_view(module: Module) -> Module:
    """Other modules around the tensors of `module`, in evaluation mode, whatever its mode: what is set on them it never sees.

    Parameters and buffers are shared as in `evaluation_view`; a compiled `module` has a view that is not compiled.
    """
    return _view(module, {})  # type: ignore[return-value]


def _view(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    if id(module) in made:
        return made[id(module)]
    compiled = module._modules.get("_orig_mod")
    if compiled is not None:  # what torch.compile returns calls the module that it was made of, not a view of it
        return _view(compiled, made)
    view = module.__new__(type(module))
    made[id(module)] = view
    view.__dict__ = dict(module.__dict__)
    view.__dict__["_parameters"] = dict(module._parameters)
    view.__dict__["_buffers"] = dict(module._buffers)
    view.__dict__["training"] = False
    view.__dict__["_modules"] = {
        name: None if child is None else _view(child, made) for name, child in module._modules.items()
    }
    for name, value in module.__dict__.items():  # such as a forward pass that a trainer has wrapped
        if isinstance(value, MethodType) and value.__self__ is module:
            view.__dict__[name] = MethodType(value.__func__, view)
        elif isinstance(value, partial) and value.args and value.args[0] is module:  # accelerate's hooks
            view.__dict__[name] = partial(value.func, view, *value.args[1:], **value.keywords)
    view.__dict__.pop("_compiled_call_impl", None)  # it would call `module` itself
    return view


def frozen_tokenizer(tokenizer: Any, max_length: int | None) -> Any:
    """A copy of a Hugging Face tokenizer for one truncation length, the same object for the same length.

    Every call of a fast tokenizer writes its truncation into the object that all calls share. This copy is only ever called
    with one truncation (`max_length`, None for none) and no padding, so that nothing in it changes once it is made.

    Args:
        tokenizer: stays as it is; a copy is made anew when tokens are added to it, or a part of it is another.
    """
    key = (max_length, *_state(tokenizer))
    known = _tokenizers.get(tokenizer)
    if known is not None and key in known:
        return known[key]
    with _making:
        known = _tokenizers.setdefault(tokenizer, {})
        if key not in known:
            frozen = copy.deepcopy(tokenizer)
            frozen.padding_side = "right"
            # The first call sets the state; it is made before another thread can see the copy.
            limited = {} if max_length is None else {"truncation": True, "max_length": max_length}
            frozen(["a"], padding=False, return_attention_mask=False, **limited)
            known[key] = frozen
        return known[key]


def _state(tokenizer: Any) -> tuple[Any, ...]:
    """What shows that a tokenizer is another than it was."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    stages = [] if backend is None else [backend.normalizer, backend.pre_tokenizer, backend.post_processor]
    return len(tokenizer), tokenizer.truncation_side, *map(repr, stages)
