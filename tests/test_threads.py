"""Waiting threads sleep: set before PyTorch is loaded, and never against what the user set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASKED = (
    "import os; from distilmatch.threads import sleep_while_waiting as s; print(s(), os.environ.get('GOMP_SPINCOUNT'))"
)
COMMAND = """
import os, sys
from distilmatch.cli.app import main
try:
    main(["--version"])
except SystemExit:
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


def _printed(program: str, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept | variables
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("before", "variables", "printed"),
    [
        ("", {}, "True 1000"),
        ("", {"GOMP_SPINCOUNT": "7"}, "False 7"),
        ("", {"OMP_WAIT_POLICY": "active"}, "False None"),
        ("import torch; ", {}, "False None"),
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    before: str, variables: dict[str, str], printed: str
) -> None:
    assert _printed(before + ASKED, **variables) == printed


def test_every_command_asks_for_it_before_pytorch_is_loaded() -> None:
    assert _printed(COMMAND) == "1000 False"
