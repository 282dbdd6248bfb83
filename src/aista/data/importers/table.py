"""Tables: CSV with quotes, or TSV without, with a header; columns are named as our fields or mapped."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from aista.data.importers import Options, Row, stem
from aista.data.manifest import Utterance
from aista.errors import ConfigError, ManifestError

_FIELDS = tuple(field for field in Utterance.model_fields if field != "segments")
_NUMBERS = ("offset", "duration")


def read(source: Path, options: Options) -> Iterator[tuple[str, Row]]:
    """Read a table; a column neither mapped nor named as a field is ignored, an empty cell is no value."""
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            yield from _rows(file, source, options)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{source}: cannot be read.", got=str(error)) from None


def _rows(file: TextIO, source: Path, options: Options) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(file, **_dialect(source))
    columns = _columns(source, list(reader.fieldnames or []), options)
    for line in reader:
        row: Row = {field: line[column].strip() for field, column in columns.items() if line[column]}
        where = f"{source}:{reader.line_num}"
        for field in _NUMBERS:
            if field in row:
                row[field] = _number(row[field], f"{where}, column {columns[field]}")
        row.setdefault("id", stem(row.get("audio", where)))
        yield where, {field: value for field, value in row.items() if value != ""}


def _columns(source: Path, header: list[str], options: Options) -> dict[str, str]:
    wrong = [f"{f}={c}" for f, c in options.columns.items() if f not in _FIELDS or c not in header]
    if wrong:
        raise ConfigError(
            f"Cannot map {', '.join(wrong)}.",
            got=f"columns {', '.join(header)}",
            expected="FIELD=COLUMN, fields: " + ", ".join(_FIELDS),
        )
    named = {field: field for field in _FIELDS if field in header}
    columns = named | options.columns
    if "audio" not in columns and "text" not in columns:
        raise ConfigError(
            f"{source} has no column for the audio.",
            got=f"columns {', '.join(header)}",
            advice="Map it: --column audio=path --column text=sentence",
        )
    return columns


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ManifestError(f"{where}: no number.", got=text) from None


def write(rows: Iterable[Utterance], path: Path) -> None:
    """Write a table with a column per field; tabs and line ends inside a text become spaces in a TSV."""
    quoted = "delimiter" not in _dialect(path)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, **_dialect(path), lineterminator="\n")
        writer.writerow(_FIELDS)
        for row in rows:
            values = [getattr(row, field) for field in _FIELDS]
            cells = ["" if value is None else str(value) for value in values]
            writer.writerow(cells if quoted else [" ".join(cell.split()) for cell in cells])


def _dialect(path: Path) -> dict:
    return {} if path.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
