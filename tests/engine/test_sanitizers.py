"""The kernels without Python under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from distilmatch.engine.kernels.native_module import runs_native

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
VECTORS = [f"-m{name}" for name in ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "avx512vnni", "fma")]
VECTORS += ["-mamx-tile", "-mamx-bf16", "-w"]
SOURCES = [path for path in sorted(NATIVE.glob("*.cpp")) if path.name != "module.cpp"]

pytestmark = [pytest.mark.sanitizers, pytest.mark.skipif(not runs_native(), reason="this CPU does not run the kernels")]


def _build(compiler: str, sanitizers: str, target: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    flags = ["-std=c++17", "-O1", "-g", "-fopenmp", f"-fsanitize={sanitizers}", *VECTORS]
    if "thread" not in sanitizers:
        flags.append("-fno-sanitize-recover=all")
    sources = [str(path) for path in (NATIVE / "check" / "driver.cpp", *SOURCES)]
    done = subprocess.run([compiler, *flags, *sources, "-o", str(target)], capture_output=True, text=True)
    lacking = ("cannot find -l", "unable to find library", "omp.h' file not found", "omp.h: No such file")
    if done.returncode and any(word in done.stderr for word in lacking):
        pytest.skip(f"{compiler} lacks a run-time library: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-3000:]


def _run(program: Path, **settings: str) -> None:
    done = subprocess.run(
        [str(program)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "4", **settings},
    )
    told = done.stdout[-2000:] + done.stderr[-4000:]
    assert done.returncode == 0 and done.stdout.strip().endswith("right"), told
    assert "WARNING: ThreadSanitizer" not in told and "runtime error" not in told, told


def test_memory_and_undefined_behaviour(tmp_path: Path) -> None:
    _build("g++", "address,undefined", tmp_path / "checked")
    _run(tmp_path / "checked")


def test_threads(tmp_path: Path) -> None:
    # clang's OpenMP tells the sanitizer (through Archer) what waits for what; GNU's does not.
    _build("clang++", "thread", tmp_path / "checked")
    _run(tmp_path / "checked", TSAN_OPTIONS="ignore_noninstrumented_modules=1")
