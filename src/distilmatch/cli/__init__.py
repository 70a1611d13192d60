"""The command line: thin, one module a command."""

from distilmatch.cli.app import main

__all__ = ["main"]
