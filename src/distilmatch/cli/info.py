"""`distilmatch info`: what this machine offers, and which kernel scores on it."""

from __future__ import annotations

from distilmatch.cli.options import say, say_next


def run() -> None:
    """Show versions, processor, device, precision and scoring kernel of this machine."""
    from distilmatch.engine.kernels.native import kernel_here
    from distilmatch.runtime import environment

    facts = environment() | {"kernel": kernel_here()}
    versions = facts.pop("versions")
    say(**{name: str(value) for name, value in (facts | versions).items()})
    say_next("demo")
