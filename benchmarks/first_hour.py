"""What a newcomer meets: the demo's time, alone and beside a busy core, honest dry runs, and commands from a table to a report.

`python -m benchmarks.first_hour [--skip demo|busy|dry_run|steps] [--scale X]`. Everything runs as a process of its own, as typed.
With `--skip` the figures are printed and not published: those of a file are of one run.
Wanted of an idle machine of two cores: demo at most 180 s, at most three times that beside one busy core (of two threads
one then has half a core, so twice is what sharing costs), 99 % of the teacher, promises within 30 %, three commands.

Theory: the demo is bound by the encoder's products, of the teacher on pairs and of the student on texts. Beside a busy core
threads that wait in a loop hold the core which the awaited thread needs; threads that sleep leave it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.dry_run_jobs import dry_run_errors, relative_errors
from benchmarks.results import publish
from distilmatch.demo.catalogue import write_demo_catalogue

COMMAND = [sys.executable, "-m", "distilmatch.cli"]
_BUSY = "while True: pass"


def _demo(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of the demo and the metrics of its report."""
    started = time.perf_counter()
    subprocess.run([*COMMAND, "demo", "--output", str(folder)], check=True)
    seconds = time.perf_counter() - started
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    return seconds, report["metrics"]


def demo_figures(folder: Path, busy: bool) -> dict[str, float]:
    """The demo alone and, with `busy`, once more beside a process that keeps one core busy."""
    seconds, report = _demo(folder / "alone")
    metrics = {"demo_seconds": seconds, "demo_share_of_teacher": report["share_of_teacher"]}
    metrics |= {f"demo_{name}": report[name] for name in sorted(report) if name.endswith(("_pairs_per_s", "speedup"))}
    if busy:
        other = subprocess.Popen([sys.executable, "-c", _BUSY])
        try:
            metrics["demo_busy_core_seconds"], _ = _demo(folder / "busy")
        finally:
            other.kill()
        metrics["demo_busy_core_ratio"] = metrics["demo_busy_core_seconds"] / seconds
    return metrics


def steps_from_csv(folder: Path) -> dict[str, float]:
    """Types `init` and then what each command prints as the next one, until a report stands there."""
    data = write_demo_catalogue(folder / "data", simple=True, short=True, train_pairs=720, dev_pairs=5, test_pairs=5)
    rows = [json.loads(line) for line in data.train.read_text(encoding="utf-8").splitlines()]
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["query", "product", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    words, steps = ["init", "pairs.csv"], 0
    while not list(folder.glob("run/report/report.html")):
        steps += 1
        if steps > 6:
            raise SystemExit("no report after six commands")
        print("$ distilmatch", shlex.join(words), flush=True)
        done = subprocess.run([*COMMAND, *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        words = next_command(done.stdout)
    return {"steps_from_csv": steps}


def next_command(printed: str) -> list[str]:
    """What a command says comes next, with the name of the recipe filled in."""
    following = printed[printed.rindex("Next:") :].removeprefix("Next:").replace("\\\n", " ")
    line = following.strip().splitlines()[0]
    words = shlex.split(line.replace("RECIPE.yaml", "recipe.yaml"))
    return [word for word in words[words.index("distilmatch") + 1 :] if word != "--dry-run"]


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip", action="append", default=[], choices=["demo", "busy", "dry_run", "steps"])
    parser.add_argument("--scale", type=float, default=1.0, help="Of the amounts of work of the five jobs.")
    arguments = parser.parse_args()
    skipped = arguments.skip
    metrics: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if "demo" not in skipped:
            metrics |= demo_figures(folder, "busy" not in skipped)
        if "steps" not in skipped:
            (folder / "steps").mkdir()
            metrics |= steps_from_csv(folder / "steps")
        if "dry_run" not in skipped:
            errors = relative_errors(dry_run_errors(folder / "jobs", arguments.scale))
            metrics |= errors
            metrics["dry_run_relative_error"] = statistics.median(errors.values())
            metrics["dry_run_largest_error"] = max(errors.values())
    if skipped:
        print(json.dumps(metrics))
        return
    publish("first_hour", metrics, [0], {"dry_run_relative_error": "median of minutes and bytes of five jobs"})


if __name__ == "__main__":
    main()
