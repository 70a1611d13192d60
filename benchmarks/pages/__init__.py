"""The pages of docs/results/ that are written from the benchmarks' results, all of them by `python -m benchmarks.pages`."""
