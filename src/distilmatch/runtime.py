"""Device, dtype, seed and versions: what the machine offers, asked in one place; and atomic files."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from distilmatch.config.base import Precision as Precision
from distilmatch.errors import ConfigError

_REPORTED_PACKAGES = ("distilmatch", "torch", "transformers", "sentence-transformers", "datasets", "numpy", "pyarrow")


def pick_device(name: str | None = None) -> torch.device:
    """The device `name`, or the best one here: CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: `name` is no device, or this machine has none of its kind.
    """
    if name is None or name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not known; use cpu, cuda, cuda:0 or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but PyTorch sees no CUDA here; use cpu")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware on `device`: Ampere and later, or AVX-512 BF16 or AMX on a CPU."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # The capability probes carry an underscore in PyTorch; a version without them counts as "no".
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def use_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether `precision` means bf16 on `device`; "auto" is bf16 where the hardware multiplies in it."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


@contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """Mixed precision as `precision` says; a no-op in fp32."""
    with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(precision, device)):
        yield


def keep_freed_memory() -> bool:
    """Has this process keep memory that it freed for its next tensors; returns whether that could be asked for.

    glibc gives each large block back to the system when it is freed, and the system fills the next one with zeros: a
    third of the time of a training step of small batches on a CPU. With this the peak of the memory is the same, and
    the process holds it until its end. Nothing happens without glibc, or where `MALLOC_` variables ask for something.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # malloc.h: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD is -3; glibc refuses an mmap threshold above 2**25 in some
    # versions, and M_MMAP_MAX (-4) of 0 asks for the same.
    return bool(mallopt(-1, 2**31 - 1)) and bool(mallopt(-3, 2**30) or mallopt(-4, 0))


def busy_cores(seconds: float = 0.3) -> float:
    """How many cores other processes keep busy, measured for `seconds`; this process is not counted."""
    own = psutil.Process()
    before = own.cpu_times()
    share = psutil.cpu_percent(interval=seconds)
    after = own.cpu_times()
    mine = (after.user + after.system - before.user - before.system) / seconds
    return max(0.0, share / 100 * (psutil.cpu_count() or 1) - mine)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def environment() -> dict[str, Any]:
    """What a result depends on besides its recipe: package versions, Python, processor, device."""
    versions = {}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = pick_device()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "fast_bf16": has_fast_bf16(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": versions,
    }


def processor_name() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int:
    """Bytes of memory that are free: of the GPU, or of this machine."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)
