"""Freed memory stays with the process: counted in the pages that the system has to fill."""

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from distilmatch.runtime import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else False
for _ in range(10):
    torch.zeros(12_000_000).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(12_000_000).add_(1)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode: str, **environment: str) -> tuple[bool, int]:
    printed = subprocess.run(
        [sys.executable, "-c", _FAULTS, mode], capture_output=True, text=True, check=True, env=environment
    ).stdout
    kept, faults = printed.split()[-2:]
    return kept == "1", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these settings")
def test_kept_memory_is_not_filled_again() -> None:
    kept, faults = _faults("kept", PATH="/usr/bin:/bin")
    if not kept:
        pytest.skip("this system's C library has no mallopt")
    _, before = _faults("plain", PATH="/usr/bin:/bin")
    assert before > 100_000  # 20 tensors of 48 MB
    assert faults < before / 10


def test_malloc_variables_of_the_user_win() -> None:
    assert not _faults("kept", PATH="/usr/bin:/bin", MALLOC_TRIM_THRESHOLD_="131072")[0]
