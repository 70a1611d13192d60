"""How threads wait for each other; to be set before PyTorch is loaded."""

from __future__ import annotations

import os
import sys

# Rounds of a loop that a thread waits in before it sleeps: some microseconds. Without any, small training steps on an idle
# machine take a fifth longer; with ten times as many, those beside a busy core 1.7 times as long.
_SPINS = "1000"


def sleep_while_waiting() -> bool:
    """Has the threads of PyTorch and of the compiled kernels sleep soon while they wait for each other; whether it was set.

    By default (libgomp, `GOMP_SPINCOUNT`) they wait in a loop, some milliseconds each time. Beside another busy process
    that loop takes the very core which the thread that is waited for needs: a training step then took 3 to 15 times as
    long. It must be called before PyTorch is imported. Nothing is set where `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` is.
    """
    if "torch" in sys.modules or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return False
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    return True
