"""Jobs whose workers are lost, fail or are slow, in a module that a worker's process can import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilmatch.errors import DataError


@dataclass(frozen=True)
class Squares:
    """n**2; a payload in `deadly` ends its worker so often, one in `wrong` is refused, one in `broken` fails."""

    place: str
    deadly: tuple[tuple[int, int], ...] = ()
    wrong: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    seconds: float = 0.0

    def open(self, worker: int) -> Callable[[Any], Any]:
        return self._work

    def _work(self, payload: int) -> int:
        for number, times in self.deadly:
            tried = len(list(Path(self.place).glob(f"{number}-*")))
            if number == payload and tried < times:
                (Path(self.place) / f"{number}-{tried}").write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
        if payload in self.wrong:
            raise DataError(f"{payload} is no number")
        if payload in self.broken:
            raise RuntimeError("a bug")
        time.sleep(self.seconds)
        return payload**2
