"""`distilmatch verify`: is what lies on disk what was written there?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from distilmatch.cli.options import say

_LABELS = "soft_labels.sqlite"


def run(
    folders: list[Path] = typer.Argument(
        ...,
        metavar="FOLDER...",
        help="Folders of representations, students, label caches, other caches or the output of a run.",
    ),
) -> None:
    """Check every file in the folders against its checksum.

    Print a line for each artifact; exit with code 1 if one is damaged or unfinished.
    """
    from distilmatch.errors import CacheError

    whole = damaged = 0
    for folder in folders:
        artifacts = list(_things(folder)) if folder.exists() else []
        if not artifacts:
            there = "holds nothing that can be verified" if folder.exists() else "is not there"
            raise CacheError(
                f"{folder} {there}: give representations, a student, a label cache, a cache or the output of a run"
            )
        for path, kind, verify in artifacts:
            problems = _problems(verify, path)
            whole, damaged = whole + (not problems), damaged + bool(problems)
            typer.echo(f"{path}  {kind}  {'damaged' if problems else 'whole'}")
            for problem in problems:
                typer.echo(f"  {problem}")
    say(whole=whole, damaged=damaged)
    if damaged:
        raise typer.Exit(1)


def _problems(verify: Callable[[Path], list[str]], path: Path) -> list[str]:
    from distilmatch.errors import DistilmatchError

    try:
        return verify(path)
    except (DistilmatchError, OSError) as error:
        return [str(error)]


def _things(path: Path) -> Iterator[tuple[Path, str, Callable[[Path], list[str]]]]:
    """What a path is, or, where it is none of these, what is in it."""
    thing = _thing(path)
    if thing is not None:
        yield path, *thing
    elif path.is_dir():
        for inner in sorted(path.iterdir()):
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                yield from _things(inner)


def _thing(path: Path) -> tuple[str, Callable[[Path], list[str]]] | None:
    if path.name == _LABELS or (path / _LABELS).exists():
        from distilmatch.teachers.label_cache import verify_label_cache

        return "label cache", verify_label_cache
    if (path / "catalogue.sqlite").exists():
        from distilmatch.store.versions import verify_store

        return "store", verify_store
    if any((path / name).exists() for name in ("manifest.json", "progress.json")):
        if any(path.glob("shard-*.safetensors")) or any(path.glob("ids-*.parquet")) or _says(path, "kept_tokens"):
            from distilmatch.store.folder import verify_folder

            return "representations", verify_folder
        from distilmatch.files import verify_manifest

        return "cache", verify_manifest
    if any((path / name).exists() for name in ("config.json", "checksums.json", "modules.json")):
        from distilmatch.models.integrity import verify_student

        return "model", verify_student
    return None


def _says(folder: Path, word: str) -> bool:
    # The manifest may be damaged: its bytes are looked through, not read as JSON.
    for name in ("manifest.json", "progress.json"):
        try:
            if f'"{word}"'.encode() in (folder / name).read_bytes():
                return True
        except OSError:
            continue
    return False
