"""One process or many: who writes, and where all wait for one another."""

from __future__ import annotations

import os
from datetime import timedelta

from accelerate import PartialState

_LONG = timedelta(days=7)  # labelling by the main process may take days; the others wait


class Processes:
    """The processes of a `torchrun` job; alone, this one."""

    def __init__(self, cpu: bool) -> None:
        many = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._state = PartialState(cpu=cpu, timeout=_LONG, **({"backend": "gloo"} if cpu else {})) if many else None

    @property
    def count(self) -> int:
        """How many processes there are."""
        return 1 if self._state is None else self._state.num_processes

    @property
    def rank(self) -> int:
        """This one's number, from 0."""
        return 0 if self._state is None else self._state.process_index

    @property
    def is_main(self) -> bool:
        """Whether this one writes what all share."""
        return self._state is None or self._state.is_main_process

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self._state is not None:
            self._state.wait_for_everyone()
