"""CSV and TSV files: how they are written is found out from their first lines, and what could be read two ways is refused.

The delimiter is the comma (.tsv: the tab) unless the header has none of them and another one fits header and rows.

With `quoting: auto` a quote that begins a field opens a quoted field, as RFC 4180 has it, with these exceptions:

- Fields are separated by tabs, and the first lines hold what no writer that quotes would leave (a quote that is not closed,
  text behind a closing one, a quote inside a field without quotes, needless quotes here and there), and nothing that
  only such a writer writes (a delimiter, a line end or doubled quotes inside quotes): every quote is text.
- They hold both of these, or quotes that nothing needs around one column of texts and none around another: refused.
  Without tabs: refused if nothing needs the quotes that enclose fields, and others stand inside fields without any.
- A quoted field runs on over line ends, and two or more of its lines would be rows if quotes meant nothing: refused, unless
  its line ends differ from the file's own, or a file without tabs has shown before that it is quoted.

A quote that is never closed costs its own line only: that row is bad, the lines after it are read as rows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from distilmatch.config.tables import TableConfig
from distilmatch.data.csv_records import OPEN, RETURN, Record, body, plain_records, quoted_records
from distilmatch.data.sources import RawRow
from distilmatch.data.text_files import TextFile
from distilmatch.data.values import is_number
from distilmatch.errors import DataError

logger = logging.getLogger(__name__)

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE_BYTES = 2**20
_FITTED_ROWS = 200
_FITS = 0.9
_LITERAL = "if quotes are part of the texts, set `quoting: none` (--quoting none)"
_SETTINGS = f"{_LITERAL}; if they enclose fields, set `quoting: rfc4180` (--quoting rfc4180)"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a delimited file is written.

    Attributes:
        quoted: RFC 4180, or every quote a part of the text.
        checked: a quoted field that may be several rows is refused.
        proven: the file is quoted for sure, so that such a field is none.
        unseen: the first lines have no quoted field, and tabs between fields: one whose quotes nothing needs is refused.
        skipped: lines before the header.
        header: the names of the columns.
        end: the line end of the header.
    """

    delimiter: str
    quoted: bool
    checked: bool = False
    proven: bool = False
    unseen: bool = False
    skipped: int = 0
    header: tuple[str, ...] = ()
    end: str = "\n"


def sniff(file: TextFile, config: TableConfig, usual: str) -> Dialect:
    """How `file` is written, as far as `config` leaves it open.

    Args:
        usual: the delimiter that the file's ending stands for.

    Raises:
        DataError: no header, names twice, or a file that could be read in several ways; the message names the setting.
    """
    sample = _Sample(file)
    if not sample.lines:
        raise DataError(f"{file.path} has no header and no rows; the first line must name the columns")
    delimiter = _delimiter(sample, config, usual)
    if config.quoting != "auto":
        return _with_header(sample, Dialect(delimiter=delimiter, quoted=config.quoting == "rfc4180"))
    evidence = _weigh(sample, delimiter)
    dialect = Dialect(
        delimiter=delimiter,
        quoted=_quoted(evidence, delimiter, file),
        checked=True,
        proven=evidence.proven,
        unseen=delimiter == "\t" and not evidence.enclosed,
    )
    return _with_header(sample, dialect)


def read_rows(file: TextFile, dialect: Dialect) -> Iterator[RawRow]:
    """The rows after the header; blank lines are passed over and counted.

    Raises:
        DataError: a quoted field that may be several rows.
    """
    number = -1
    for record in _records(file, dialect):
        if number < 0:
            number += bool(record.fields)
            continue
        number += 1
        problem, kind = _problem(record, dialect, file)
        if problem is not None:
            yield RawRow(row=number, original=record.text(), problem=problem, kind=kind)
        elif record.fields:
            values = dict(zip(dialect.header, record.fields, strict=True))
            yield RawRow(row=number, original=record.text(), values=values)


def _records(file: TextFile, dialect: Dialect) -> Iterator[Record]:
    lines = islice(file.lines(), dialect.skipped, None)
    split = quoted_records if dialect.quoted else plain_records
    for record in split(lines, dialect.delimiter):
        record.first_line += dialect.skipped
        yield record


def _problem(record: Record, dialect: Dialect, file: TextFile) -> tuple[str | None, str]:
    """What is wrong with a record, or None; and of which kind that is."""
    width = len(dialect.header)
    if record.problem is not None:
        hint = _LITERAL if '"' in record.lines[0] else f"{file.path.name} may have mixed line ends"
        return (
            f"broken quoting or line ending: {record.problem} (line {record.first_line} of the file); {hint}",
            "quote",
        )
    if len(record.lines) > 1 and dialect.checked and _may_be_rows(record, dialect):
        last = record.first_line + len(record.lines) - 1
        raise DataError(
            f"{file.path}, lines {record.first_line} to {last}: a quote opens a field in the first of these lines and the "
            f"next that closes it stands in the last, but each of them could be a row; {_SETTINGS}"
        )
    if dialect.unseen and _needless(record, dialect.delimiter):
        raise DataError(
            f"{file.path}, line {record.first_line}: a field stands in quotes that nothing in it needs, the first lines have "
            f"none; {_SETTINGS}"
        )
    if record.invalid:
        return "invalid UTF-8", "utf-8"
    if record.fields and len(record.fields) != width:
        few = "few" if len(record.fields) < width else "many"
        return f"too {few} fields: {len(record.fields)} where the header has {width}{_other_way(record, dialect)}", ""
    return None, ""


def _may_be_rows(record: Record, dialect: Dialect) -> bool:
    if record.unlike(dialect.end) or (dialect.proven and dialect.delimiter != "\t"):
        return False
    return _stands(record, dialect.delimiter, len(dialect.header))


def _stands(record: Record, delimiter: str, width: int) -> bool:
    wanted = 2 if width > 1 else sum(bool(body(line)) for line in record.lines)
    return record.standing(delimiter, width) >= wanted


def _other_way(record: Record, dialect: Dialect) -> str:
    text = record.text()
    if '"' not in text:
        return ""
    if dialect.quoted and len(text.split(dialect.delimiter)) == len(dialect.header):
        return f"; {_LITERAL}"
    other = next(quoted_records([text.encode("utf-8", errors="surrogateescape")], dialect.delimiter))
    fits = not dialect.quoted and len(other.fields) == len(dialect.header)
    return "; if quotes enclose fields, set `quoting: rfc4180`" if fits else ""


# --- what the first lines say --------------------------------------------------------------------------------------


class _Sample:
    """The first lines of a file, whole ones where there are several; blank ones before the header left out."""

    def __init__(self, file: TextFile) -> None:
        self.path = file.path
        self.lines: list[bytes] = []
        self.skipped = 0
        self.stated: str | None = None
        self.whole = True
        size = 0
        for line in file.lines():
            if not self.lines and not line.strip(b"\r\n"):
                self.skipped += 1
                continue
            if not self.lines and self.stated is None and (stated := _stated_delimiter(line)):
                self.skipped, self.stated = self.skipped + 1, stated
                continue
            self.lines.append(line)
            size += len(line)
            if size >= _SAMPLE_BYTES:
                self.whole = False
                break

    def records(self, delimiter: str, quoted: bool = True) -> Iterator[Record]:
        """The header's record and those after it, without one that the end of the sample cuts."""
        for record in (quoted_records if quoted else plain_records)(self.lines, delimiter):
            if record.problem == OPEN and not self.whole:
                return
            record.first_line += self.skipped
            yield record


def _stated_delimiter(line: bytes) -> str | None:
    # Excel's own first line, "sep=;", is no header.
    text = line.decode("utf-8", errors="replace").strip("\r\n").strip('"')
    return text[4] if text.lower().startswith("sep=") and len(text) == 5 else None


def _delimiter(sample: _Sample, config: TableConfig, usual: str) -> str:
    if config.delimiter is not None:
        return "\t" if config.delimiter == "\\t" else config.delimiter
    if sample.stated is not None:
        return sample.stated
    widths = {delimiter: _width(sample, delimiter) for delimiter in (usual, *DELIMITERS)}
    if widths[usual] > 1 and _fit(sample, usual, widths[usual]) > 0:
        return usual
    fitting = {d: width for d, width in widths.items() if width > 1 and _fit(sample, d, width) >= _FITS}
    best = [delimiter for delimiter, width in fitting.items() if width == max(fitting.values())]
    if len(best) == 1 and best[0] != usual:
        delimiter = best[0]
        logger.info("%s: fields are separated by %s; `delimiter` sets another", sample.path, DELIMITERS[delimiter])
        return delimiter
    others = [DELIMITERS[d] for d, width in widths.items() if d != usual and width > 1]
    if widths[usual] == 1 and others and (best or _fit(sample, usual, 1) < _FITS):
        shown = body(sample.lines[0].decode("utf-8", errors="replace"))[:80]
        raise DataError(
            f"{sample.path}: the header {shown!r} has no {DELIMITERS[usual]}, but {' and '.join(others)}, and it is not clear "
            "what separates its fields; set `delimiter`, such as `delimiter: ';'`"
        )
    return usual


def _width(sample: _Sample, delimiter: str) -> int:
    return len(next(sample.records(delimiter), Record(lines=[], first_line=1)).fields)


def _fit(sample: _Sample, delimiter: str, width: int) -> float:
    """The share of the first rows that have `width` fields; 1 where there is no row."""
    records = islice(sample.records(delimiter), 1, _FITTED_ROWS)
    widths = [len(record.fields) for record in records if record.fields or record.problem]
    return sum(row_width == width for row_width in widths) / len(widths) if widths else 1.0


@dataclass(kw_only=True)
class _Evidence:
    """Numbers of lines with what only a writer that quotes writes, and with what none of them would.

    Attributes:
        quoted: a delimiter, a line end or doubled quotes inside quotes.
        broken: a quote that is not closed, or text behind a closing one.
        bare: a quote inside a field without quotes.
        needless: quotes that nothing in the field needs, in a column that has fields without them.
        unclear: the same in a column where every field has them, though another column of texts has none.
        enclosed: whether any field stands in quotes.
    """

    quoted: list[int] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)
    bare: list[int] = field(default_factory=list)
    needless: list[int] = field(default_factory=list)
    unclear: list[int] = field(default_factory=list)
    enclosed: bool = False

    @property
    def proven(self) -> bool:
        return bool(self.quoted) and not self.broken and not self.bare


def _weigh(sample: _Sample, delimiter: str) -> _Evidence:
    evidence = _Evidence()
    if not any(b'"' in line for line in sample.lines):
        return evidence
    needless: dict[int, int] = {}  # column -> the first line where it stands in quotes without need
    unquoted: Counter[int] = Counter()
    texts: set[int] = set()
    header: Record | None = None
    end = "\n"
    for record in sample.records(delimiter):
        if header is None:
            header, end = record, record.lines[0][len(body(record.lines[0])) :]
            if record.quoted and all(record.quoted):
                evidence.quoted.append(
                    record.first_line
                )  # nobody quotes a name without need but a writer that quotes all
            continue
        _weigh_record(record, evidence, delimiter, len(header.fields), end)
        evidence.enclosed = evidence.enclosed or any(record.quoted)
        if record.problem is None and len(record.lines) == 1:
            for column, (value, quoted) in enumerate(zip(record.fields, record.quoted, strict=True)):
                if quoted and _is_needless(value, delimiter):
                    needless.setdefault(column, record.first_line)
                elif value and not quoted:
                    unquoted[column] += 1
                    texts.update([] if is_number(value) else [column])
    evidence.needless = sorted(line for column, line in needless.items() if unquoted[column])
    evidence.unclear = sorted(line for column, line in needless.items() if not unquoted[column] and texts)
    return evidence


def _needless(record: Record, delimiter: str) -> bool:
    """Whether a field of the record stands in quotes that nothing in it needs."""
    if not any(record.quoted) or all(record.quoted):
        return False
    return any(
        quoted and _is_needless(value, delimiter) for value, quoted in zip(record.fields, record.quoted, strict=True)
    )


def _is_needless(value: str, delimiter: str) -> bool:
    # Some writers quote an empty field, or white space at its ends.
    return value.strip() == value != "" and not any(sign in value for sign in ('"', "\r", "\n", delimiter))


def _weigh_record(record: Record, evidence: _Evidence, delimiter: str, width: int, end: str) -> None:
    if not any('"' in line for line in record.lines):
        return
    if record.problem is not None:
        evidence.broken.append(record.first_line)
        return
    if record.bare:
        evidence.bare.append(record.first_line)
    if not any(record.quoted) or len(record.fields) != width:
        return
    if len(record.lines) > 1:
        if record.unlike(end) or not _stands(record, delimiter, width):
            evidence.quoted.append(record.first_line)
    elif record.escaped or "\r" in body(record.lines[0]) or len(body(record.lines[0]).split(delimiter)) != width:
        evidence.quoted.append(record.first_line)


def _quoted(evidence: _Evidence, delimiter: str, file: TextFile) -> bool:
    """Whether the quotes of a file enclose fields."""
    enclosed = evidence.quoted if delimiter == "\t" or evidence.quoted else [*evidence.needless, *evidence.unclear]
    if enclosed and evidence.bare and (delimiter == "\t" or not evidence.quoted):
        raise DataError(
            f"{file.path}: line {enclosed[0]} has quotes that enclose a field, line {evidence.bare[0]} one inside a field "
            f"without quotes, and no writer makes both; {_SETTINGS}"
        )
    if delimiter != "\t":
        return True
    literal = [*evidence.broken, *evidence.bare, *evidence.needless]
    if evidence.unclear and not evidence.quoted and not literal:
        raise DataError(
            f"{file.path}, line {evidence.unclear[0]}: a field stands in quotes that nothing in it needs, others have none; "
            f"{_SETTINGS}"
        )
    if evidence.quoted or not literal:
        return True
    logger.info(
        "%s: quotes are read as part of the texts, since line %d would not have them so otherwise; `quoting: rfc4180` takes "
        "them off",
        file.path,
        min(literal),
    )
    return False


def _with_header(sample: _Sample, dialect: Dialect) -> Dialect:
    path = sample.path
    header = next(sample.records(dialect.delimiter, dialect.quoted), None)
    if header is None or header.problem is not None or header.invalid:
        problem = "invalid UTF-8" if header is not None and header.invalid else f"broken quoting: {OPEN}"
        if header is not None and header.problem is not None:
            problem = f"broken quoting or line ending: {header.problem}"
            problem += "; save the file with line feeds as line ends" if header.problem == RETURN else ""
        raise DataError(f"{path}: the header cannot be read: {problem}")
    if len(header.lines) > 1 and dialect.checked:
        raise DataError(f"{path}: a quote opens a field of the header and is not closed on its line; {_SETTINGS}")
    names = tuple(name.strip() for name in header.fields)
    end = header.lines[-1][len(body(header.lines[-1])) :]
    return replace(dialect, skipped=sample.skipped, header=names, end=end or "\n")
