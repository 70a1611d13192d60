"""Options that several commands share, and the small conversions behind them."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from distilmatch.cli.examples import WIDTH, wrapped_command

if TYPE_CHECKING:
    from distilmatch.config.base import FrozenConfig
    from distilmatch.config.pairs import PairRecipe
    from distilmatch.config.tables import TableConfig
    from distilmatch.models import DiPair

    Recipe = TypeVar("Recipe", bound=FrozenConfig)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.", show_default=False)]
ModelPath = Annotated[
    str, typer.Argument(metavar="MODEL", help="Student model: a folder or a Hugging Face hub name.", show_default=False)
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", help="Output folder of the run; overrides `output` of the recipe.", show_default="the recipe's"
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Random seed; overrides the seed of the recipe.", show_default="the recipe's"),
]
TablePath = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="Table: a JSONL, CSV, TSV or Parquet file, or the name of a Hugging Face dataset.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of the recipe, such as stage2.epochs=1. Repeatable.",
        show_default="the recipe as it is",
    ),
]
_BAD_ROWS = "Unreadable rows: stop before any work, or copy them to a separate file and continue."
OnBadRows = Annotated[
    str | None, typer.Option("--on-bad-rows", metavar="stop|quarantine", help=_BAD_ROWS, show_default="stop")
]
RecipeBadRows = Annotated[
    str | None, typer.Option("--on-bad-rows", metavar="stop|quarantine", help=_BAD_ROWS, show_default="the recipe's")
]
TextColumns = Annotated[
    str | None,
    typer.Option(
        "--text-columns",
        metavar="A,B",
        help="Names of the text columns, left side first.",
        show_default="recognised by their names",
    ),
]
TextTemplates = Annotated[
    list[str] | None,
    typer.Option(
        "--text-templates",
        metavar="TEMPLATE",
        help="Make the texts of several columns: one template for all sides, or repeat it for each, left side first.",
        show_default="texts are columns",
    ),
]
TextTemplate = Annotated[
    str | None,
    typer.Option(
        "--text-template",
        metavar="TEMPLATE",
        help="Make each text of several columns, such as '{title} ; brand: {brand}'.",
        show_default="texts are a column",
    ),
]
IdColumns = Annotated[
    str | None,
    typer.Option(
        "--id-columns", metavar="A,B", help="Names of the id columns, one for each side.", show_default="no ids"
    ),
]
Split = Annotated[str, typer.Option("--split", help="Split to read, where the table is a Hugging Face dataset.")]
Delimiter = Annotated[
    str | None,
    typer.Option(
        "--delimiter",
        metavar="CHARACTER",
        help="Field separator of CSV and TSV files.",
        show_default="detected from the header",
    ),
]
Quoting = Annotated[
    str,
    typer.Option(
        "--quoting",
        metavar="auto|rfc4180|none",
        help="Whether double quotes in CSV and TSV files enclose fields (rfc4180) or are text (none).",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Device: cpu, cuda or mps.", show_default="a GPU where there is one"),
]
RecipeDevice = Annotated[
    str | None,
    typer.Option(
        "--device", help="Device: cpu, cuda or mps.", show_default="the recipe's, else a GPU where there is one"
    ),
]
Calibrated = Annotated[
    bool,
    typer.Option("--calibrated", help="Write calibrated probabilities of a match, by the student's decision.json."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Overwrite the output if it exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the inputs and print the plan; write nothing.")]

Kernel = Annotated[
    str,
    typer.Option(
        "--kernel",
        metavar="KERNEL",
        help="Scoring kernel: auto, compiled for this CPU (native, native-int8), for a GPU (triton), or PyTorch's "
        "(torch, torch-bf16).",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Number of threads of the native kernel, or of each worker.",
        show_default="those of PyTorch",
    ),
]

Memory = Annotated[
    float | None,
    typer.Option(
        "--memory",
        metavar="GB",
        min=0.001,
        help="Memory for folded texts, in GB; what does not fit is kept in files.",
        show_default="a quarter of the free memory",
    ),
]


def bytes_of(gigabytes: float | None) -> int | None:
    """An option in GB as bytes; None stays None."""
    return None if gigabytes is None else int(gigabytes * 1e9)


def threshold_of(value: str | None) -> float | str | None:
    """A threshold as it was typed: a number, or a name of the student's decision.

    Raises:
        ConfigError: it is neither.
    """
    from distilmatch.metrics.thresholds import threshold_asked

    return None if value is None else threshold_asked(value)


def names(value: str | None) -> list[str] | None:
    """A comma-separated option as a list; None stays None."""
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Checks an option that takes one of a few words.

    Raises:
        ConfigError: it is none of them.
    """
    from distilmatch.errors import ConfigError, did_you_mean

    if value not in allowed:
        raise ConfigError(f"{option} must be one of {', '.join(allowed)}, not {value!r}{did_you_mean(value, allowed)}")


def student_of(model: str, device: str | None = "cpu") -> DiPair:
    """The student of a folder or hub name on `device`, in a process that keeps its memory for the work to come."""
    from distilmatch.models import DiPair
    from distilmatch.runtime import keep_freed_memory, pick_device

    keep_freed_memory()
    return DiPair.from_pretrained(model).eval().to(pick_device(device))  # type: ignore[arg-type,return-value]


def text_option(model: DiPair) -> list[str]:
    """How `encode` is told of the texts that a student is for."""
    templates = model.config.text_templates
    return ["--text-template", templates[0]] if templates else ["--text-column", "COLUMN"]


def table_config(
    *,
    text_columns: str | None = None,
    text_templates: list[str] | None = None,
    id_columns: str | None = None,
    label_column: str | None = None,
    on_bad_rows: str | None = None,
    split: str = "train",
    delimiter: str | None = None,
    quoting: str = "auto",
    sides: int = 2,
) -> TableConfig:
    """How a table is read, from the options of a command."""
    from distilmatch.config.tables import TableConfig

    return TableConfig.from_dict(
        {
            "sides": sides,
            "text_columns": names(text_columns),
            "text_templates": text_templates or None,
            "id_columns": names(id_columns) or [],
            "label_column": label_column,
            "on_bad_rows": on_bad_rows or "stop",
            "split": split,
            "delimiter": delimiter,
            "quoting": quoting,
        },
        "options",
    )


def load_recipe(path: Path, changes: list[str] | None, extra: dict[str, Any]) -> PairRecipe:
    """The pair recipe of a file, with `--set` changes and the command's own options put in.

    Raises:
        ConfigError: no such file, no such setting, or a value that does not fit.
    """
    from distilmatch.config.pairs import PairRecipe

    return load_recipe_of(PairRecipe, path, changes, extra)


def load_recipe_of(kind: type[Recipe], path: Path, changes: list[str] | None, extra: dict[str, Any]) -> Recipe:
    """As `load_recipe`, for a recipe of any kind."""
    from distilmatch.errors import ConfigError
    from distilmatch.yaml_files import yaml_value

    settings = kind.read_settings(path)
    overrides = {key: (key, value) for key, value in extra.items() if value is not None}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {change!r} must be KEY=VALUE, such as stage2.epochs=1")
        overrides[key.strip()] = (f"--set {change!r}", yaml_value(value, f"--set {change!r}"))
    for key, (said, value) in overrides.items():
        unknown = kind.unknown_setting(key)
        if unknown is not None:
            raise ConfigError(f"{said}: {unknown}")
        _put(settings, key.split("."), value, said)
    recipe = kind.from_dict(settings, str(path))
    check_recipe_file(path, getattr(recipe, "output", None))
    return recipe


def check_recipe_file(
    path: Path, output: str | Path | None, written: tuple[str, ...] = (), settings: FrozenConfig | None = None
) -> None:
    """Refuses a run that would write over the recipe that it is started with.

    Args:
        written: names of files that the run writes in its output folder.
        settings: those of the run; a file that says the same stays as it is.

    Raises:
        ConfigError: the output is the recipe, or one of `written` is.
    """
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_outputs

    check_outputs({"the output": output}, {"the recipe": path})
    for name in written if output is not None else ():
        place = Path(output or "") / name
        if not place.exists() or not place.samefile(path):
            continue
        if settings is None or type(settings).from_yaml(path) != settings:
            raise ConfigError(
                f"{path} is the recipe in this output folder, which would be replaced: copy it elsewhere, change the "
                "copy, and run it with another output"
            )


def _put(settings: dict[str, Any], keys: list[str], value: Any, said: str) -> None:
    """Puts `value` in its place among nested settings, whose groups are made where there are none yet."""
    from distilmatch.errors import ConfigError

    here: Any = settings
    for number, key in enumerate(keys):
        last = number == len(keys) - 1
        if isinstance(here, list | tuple):
            if not key.isdigit() or int(key) >= len(here):
                before = ".".join(keys[:number])
                numbers = ", ".join(f"{before}.{i}" for i in range(min(3, len(here))))
                raise ConfigError(
                    f"{said}: `{before}` is a list of {len(here)}: name one of it ({numbers or 'it is empty'})"
                )
            place: Any = int(key)
        else:
            place = key
        if last:
            here[place] = value
            return
        inner = here[place] if isinstance(here, list) else here.get(place)
        if inner is not None and not isinstance(inner, dict | list):
            raise ConfigError(f"{said}: `{'.'.join(keys[: number + 1])}` is {inner!r} here, which has no settings")
        inner = copy.copy(inner) or {}  # an alias may have the same group elsewhere
        here[place] = inner
        here = inner


def say(**facts: Any) -> None:
    """Prints facts, one a line: names to the left, values to the right; in a terminal long values go on below themselves."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)
        line = f"{name.replace('_', ' '):<{width}}  {text}"
        typer.echo(below_itself(line, width + 2, sys.stdout.isatty()))


def below_itself(line: str, indent: int, in_terminal: bool) -> str:
    """A line broken between words at a terminal's width, all but its beginning `indent` characters to the right.

    Paths and other long words stay whole. What goes to a file or a pipe is not broken: programs read it line by line.
    """
    room = max(40, shutil.get_terminal_size((WIDTH, 24)).columns)
    if not in_terminal or len(line) <= room:
        return line
    rows = textwrap.wrap(line, room, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(rows)


def duration(seconds: float) -> str:
    """A time as people say it: in seconds, minutes, hours or days."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 100):
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


def say_next(*words: Any) -> None:
    """Prints the command that usually follows, ready to be pasted; what stands in capitals is still to be filled in."""
    command = wrapped_command(["distilmatch", *words])
    typer.echo(f"\nNext: {command}" if len(command) + len("Next: ") <= WIDTH else f"\nNext:\n{command}")
