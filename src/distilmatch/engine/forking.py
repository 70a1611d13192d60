"""What becomes of a scorer in a process that forks: OpenMP's threads do not come along, and waiting for them never ends."""

from __future__ import annotations

import logging
import os
import threading

import torch

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_watching = False
_forked = False
_told = False


def watch_forks() -> None:
    """From now on a child that this process forks computes with one thread."""
    global _watching
    with _lock:
        if not _watching and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_child)
        _watching = True


def threads_here(threads: int) -> int:
    """`threads`, or 1 in a process that was forked after a scorer was made."""
    return 1 if _forked else threads


def tell_forked() -> None:
    """Says once a process, where it was forked, that it scores with one thread."""
    global _told
    if _forked and not _told:
        _told = True
        logger.warning(
            "this process was forked after a scorer was made, so it scores with one thread; for all threads start processes "
            "with spawn, or load the student after the fork"
        )


def _in_child() -> None:
    global _forked, _told, _lock
    _forked, _told, _lock = True, False, threading.Lock()
    torch.set_num_threads(1)
