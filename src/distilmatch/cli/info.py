"""`distilmatch info`: what this machine offers."""

from __future__ import annotations

from distilmatch.cli.options import say


def run() -> None:
    """Show versions, processor, device and precision as this package sees them."""
    from distilmatch.runtime import environment

    facts = environment()
    versions = facts.pop("versions")
    say(**{name: str(value) for name, value in (facts | versions).items()})
