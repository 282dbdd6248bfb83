"""Tables: CSV with quotes, or TSV without, with a header; columns are named as our fields or mapped."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from aista.data.importers import Options, Row, Skipped, stem
from aista.data.manifest import Utterance
from aista.data.text_files import Broken, header_of, read_rows
from aista.errors import ConfigError, ManifestError

_FIELDS = tuple(field for field in Utterance.model_fields if field != "segments")
_NUMBERS: dict[str, type[int] | type[float]] = {"offset": float, "duration": float, "channel": int}
_TEXTS = ("text", "translation", "prompt")


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped | ManifestError]]:
    """Read a table; a column neither mapped nor named as a field is ignored, an empty cell is no value.

    A row with more or fewer cells than the header is skipped with its line: something in it was cut apart.
    """
    columns = _columns(source, header_of(source), options)
    texts = [columns[field] for field in _TEXTS if field in columns]
    for number, line in read_rows(source, texts=texts):
        where = f"{source}:{number}"
        if isinstance(line, Broken):
            yield where, Skipped(line.reason)
            continue
        row: Row = {field: line[column].strip() for field, column in columns.items() if line[column]}
        try:
            for field, kind in _NUMBERS.items():
                if row.get(field):
                    row[field] = _number(row[field], kind, f"{where}, column {columns[field]}", field)
        except ManifestError as error:
            yield where, error
            continue
        row.setdefault("id", stem(row.get("audio", where)))
        yield where, row


def _columns(source: Path, header: list[str], options: Options) -> dict[str, str]:
    wrong = [f"{f}={c}" for f, c in options.columns.items() if f not in _FIELDS or (c and c not in header)]
    if wrong:
        raise ConfigError(
            f"Cannot map {', '.join(wrong)}.",
            got=f"columns {', '.join(header)}",
            expected="FIELD=COLUMN, fields: " + ", ".join(_FIELDS),
        )
    named = {field: field for field in _FIELDS if field in header}
    columns = {field: column for field, column in (named | options.columns).items() if column}
    twice = sorted({column for column in columns.values() if header.count(column) > 1})
    if twice:
        raise ConfigError(f"{source} has several columns of one name.", got=", ".join(twice))
    if "audio" not in columns and "text" not in columns:
        raise ConfigError(
            f"{source} has no column for the audio.",
            got=f"columns {', '.join(header)}",
            advice="Map it: --column audio=path --column text=sentence",
        )
    return columns


def _number(text: str, kind: type[int] | type[float], where: str, field: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ManifestError(
            f"{where}: no {'whole ' if kind is int else ''}number.",
            got=text,
            advice=f"If this column is no {field}, leave it out: --column {field}=",
        ) from None


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
