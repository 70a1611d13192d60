"""The kernel that was asked for, or the best one for a model where it is."""

from __future__ import annotations

from typing import Literal, get_args

from distilmatch.engine.heads.kinds import head_cost
from distilmatch.engine.kernels.base import Kernel
from distilmatch.engine.kernels.native import NativeKernel, why_not_native, why_not_native_int8
from distilmatch.engine.kernels.torch import TorchKernel
from distilmatch.engine.kernels.triton import TritonKernel, gpu_name, why_not_triton
from distilmatch.errors import ConfigError
from distilmatch.models import DiPair
from distilmatch.runtime import has_fast_bf16

KernelName = Literal["auto", "native", "native-int8", "triton", "torch-bf16", "torch"]


KERNELS = get_args(KernelName)


def kernel_for(model: DiPair, name: KernelName, threads: int | None) -> tuple[Kernel, str]:
    """The kernel that was asked for, or the best one for a model where it is, and why it is this one.

    Raises:
        ConfigError: the kernel that was asked for cannot score this model here.
    """
    if name not in KERNELS:
        raise ConfigError(f"`kernel` must be one of {', '.join(KERNELS)}, not {name!r}")
    if name == "torch":
        return TorchKernel(model), "PyTorch was asked for"
    if name == "torch-bf16":
        if not head_cost(model).products:
            raise ConfigError(
                f"the torch-bf16 kernel cannot be used: a {model.student.head} head has no matrix product that bf16 would "
                "make faster; take kernel='auto' or 'torch'"
            )
        return TorchKernel(model, "bf16"), "PyTorch with products in bf16 was asked for"
    place = model.device
    if name == "triton" or (name == "auto" and place.type == "cuda"):
        reason = why_not_triton(model)
        if reason is None:
            return TritonKernel(model), f"bf16 on {gpu_name(place)}"
    else:
        small = name == "native-int8"
        reason = why_not_native_int8(model) if small else why_not_native(model)
        if place.type != "cpu":
            reason = f"the model is on {place}"
        if reason is None:
            native = NativeKernel(model, threads, "int8" if small else None)
            return native, native.unit
    if name != "auto":
        raise ConfigError(f"the {name} kernel cannot be used: {reason}; take kernel='auto' or 'torch'")
    small = head_cost(model).products and has_fast_bf16(place)
    return TorchKernel(model, "bf16" if small else "fp32"), reason
