"""`python -m distilmatch.cli` is the `distilmatch` command."""

from distilmatch.cli.app import main

main()
