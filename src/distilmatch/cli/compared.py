"""What `match` compares: a table with itself, groups of items, and a threshold that a labelled table gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.options import names, say, table_config

if TYPE_CHECKING:
    from distilmatch.config.tables import TableConfig
    from distilmatch.jobs.match import MatchReport
    from distilmatch.jobs.matching.groups import Groups
    from distilmatch.models import DiPair
    from distilmatch.store.folder import RepresentationFolder


def target_of(threshold: str | None, precision: float | None, recall: float | None) -> str | None:
    """The threshold as it was asked for, by its name where it is a wanted precision or recall.

    Raises:
        ConfigError: two of them.
    """
    from distilmatch.errors import ConfigError

    given = {"--threshold": threshold, "--target-precision": precision, "--target-recall": recall}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} all say where to cut: give one of them")
    if precision is not None:
        return f"precision={precision:g}"
    return threshold if recall is None else f"recall={recall:g}"


def decide_on(
    student: DiPair,
    labelled_table: str | None,
    text_columns: str | None,
    label_column: str,
    read: TableConfig,
    threshold: str | None,
) -> None:
    """Gives the student thresholds of a labelled table, where there is one, in memory, and tells the one that was asked for.

    Args:
        read: how tables are read, but for their columns.

    Raises:
        ConfigError: a threshold that needs no table, or a precision that is never reached.
        DataError, BadRowsError: the table has no labels, or cannot be read.
    """
    if labelled_table is None:
        return
    from distilmatch.errors import ConfigError
    from distilmatch.evaluation.pairs.decided import dev_decisions
    from distilmatch.evaluation.pairs.wording import with_interval
    from distilmatch.metrics.thresholds import threshold_asked

    name = None if threshold is None else threshold_asked(threshold)
    if not isinstance(name, str):
        raise ConfigError(
            "--labelled-table chooses a threshold by name: give --target-precision, --target-recall or --threshold best_f1"
        )
    how = {"split": read.split, "delimiter": read.delimiter, "quoting": read.quoting}
    pairs = table_config(text_columns=text_columns, label_column=label_column, **how)  # type: ignore[arg-type]
    student.decision = dev_decisions(student, labelled_table, read_as=pairs)["student"]
    chosen = student.decision.threshold(name)
    shares = {
        share: with_interval(getattr(chosen, share), chosen.intervals.get(share)) for share in ("precision", "recall")
    }
    say(threshold=f"{chosen.score:.6g} for {name} on {student.decision.rows:,} labelled rows", **shares)


def groups_of(
    block_on: str | None,
    filters: Sequence[str | None],
    tables: Sequence[str | None],
    folders: Sequence[RepresentationFolder],
    distinct_texts: bool,
    read: TableConfig,
) -> Groups | None:
    """Which items may be compared; None where all may.

    Args:
        block_on: a column of both tables, or one of each; filters: a condition for each side.

    Raises:
        ConfigError: a table that is missing, or a condition that cannot be read.
        DataError: a column that is not there.
    """
    from distilmatch.errors import ConfigError
    from distilmatch.jobs.folder_columns import folder_column, folder_filter
    from distilmatch.jobs.matching.groups import Groups
    from distilmatch.store.reading import StoreVersion

    columns = names(block_on)
    if columns is None and not any(filters):
        return None
    if columns is not None and len(columns) not in (1, 2):
        raise ConfigError(
            "--block-on names a column of both tables, or one of the left and one of the right: LEFT,RIGHT"
        )
    how: dict[str, Any] = {
        "distinct_texts": distinct_texts, "split": read.split, "delimiter": read.delimiter, "quoting": read.quoting
    }  # fmt: skip
    keys: list[Any] = []
    masks: list[Any] = []
    for place, (side, table, folder) in enumerate(zip(("left", "right"), tables, folders, strict=True)):
        is_asked = columns is not None or bool(filters[place])
        if is_asked and table is None and not isinstance(folder, StoreVersion):
            option = "--block-on" if columns is not None else f"--{side}-filter"
            raise ConfigError(f"{option} reads the table that was encoded: give --{side}-table")
        source = folder if table is None else table
        if columns is None:
            items = folder.item_table.first_of_texts() if distinct_texts else folder.item_table
            keys.append(["all"] * len(items))
        else:
            keys.append(folder_column(source, folder, columns[min(place, len(columns) - 1)], **how))
        condition = filters[place]
        masks.append(None if condition is None else folder_filter(source, folder, condition, **how))
    return Groups.of(keys[0], keys[1]).only(*masks)


def comparison_facts(report: MatchReport, clusters_output: str | None) -> dict[str, object]:
    """What a match says of groups and clusters."""
    facts: dict[str, object] = {}
    if report.groups is not None:
        left, right = report.without_group
        facts["groups"] = (
            f"{report.groups:,}; {left:,} left and {right:,} right items are in none, and matched with nothing"
        )
    if clusters_output is not None:
        facts["clusters"] = clusters_output
        if report.clusters is not None:
            found = report.clusters
            facts["joined"] = f"{found.items:,} items in {found.clusters:,} clusters; the largest has {found.largest:,}"
    return facts


SameTable = typer.Option(
    False, "--self", help="Both folders are of one table: match its items with one another, each pair once."
)
OneToOne = typer.Option(
    False, "--one-to-one", help="With a threshold: give each item one partner at most, the best pairs first."
)
ClustersOutput = typer.Option(
    None,
    "--clusters",
    metavar="FILE",
    help="With --self and a threshold: also write all items and the cluster that each is in, to this file.",
    show_default="no file",
)
Update = typer.Option(
    None,
    "--update",
    metavar="FILE",
    help="Go on from this Parquet output of the same match, of earlier versions of the same stores: score what is new.",
    show_default="everything is scored",
)
BlockOn = typer.Option(
    None,
    "--block-on",
    metavar="COLUMN[,COLUMN]",
    help="Match only items with equal values in this column; needs --left-table and --right-table.",
    show_default="all items",
)
LeftFilter = typer.Option(
    None,
    "--left-filter",
    metavar="CONDITION",
    help="Match only left items for which this SQL condition on the columns of --left-table holds.",
    show_default="all items",
)
RightFilter = typer.Option(
    None,
    "--right-filter",
    metavar="CONDITION",
    help="The same for right items and --right-table, such as \"price < 20 and language = 'en'\".",
    show_default="all items",
)
TargetPrecision = typer.Option(
    None,
    "--target-precision",
    metavar="SHARE",
    help="Or keep the pairs above the threshold that has this precision on the dev rows, or on --labelled-table.",
    show_default="no threshold",
)
TargetRecall = typer.Option(
    None, "--target-recall", metavar="SHARE", help="The same for a wanted recall.", show_default="no threshold"
)
LabelledTable = typer.Option(
    None,
    "--labelled-table",
    metavar="TABLE",
    help="Labelled pairs to choose the threshold on.",
    show_default="the student's decision.json",
)
LabelledColumns = typer.Option(
    None,
    "--labelled-columns",
    metavar="LEFT,RIGHT",
    help="Text columns of --labelled-table.",
    show_default="guessed from their names",
)
LabelColumn = typer.Option("label", "--label-column", help="Column of the labels of --labelled-table.")
