"""Benchmarks: each module is run by one command, prints one JSON line last and writes `benchmarks/results/NAME.json`."""
