"""Rows of CSV and TSV files, whole: a row that runs over its line or into other columns is told, not used."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from aista.errors import ManifestError

csv.field_size_limit(1 << 24)


@dataclass(frozen=True)
class Broken:
    """Why a row cannot be used, and what is left of it."""

    reason: str
    cells: tuple[str, ...]


Cells = dict[str, str] | Broken


def read_rows(
    path: Path, *, texts: Collection[str] = (), escapes: bool = False, short_after: str | None = None
) -> Iterator[tuple[int, Cells]]:
    """Yield (line, column -> cell) for every row of a table with a header that is not blank.

    ``.csv`` is read with quotes, anything else as TSV without them. In a TSV a row ends at a line feed: a
    carriage return inside it is a space of its text.

    Args:
        texts: Columns that hold what is said. A line of one cell is what is left of a text that ran over its
            line: where the last column is such a text the row before is broken too, where the first is, the
            row after.
        escapes: A backslash takes the meaning from the character after it (Common Voice).
        short_after: A row that ends early is whole if it goes on after this column: its last cells are empty.

    Raises:
        ManifestError: The table cannot be read, or has no header.
    """
    try:
        rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _tsv_rows(path, escapes)
        _, header = next(rows, (0, []))
        if not header:
            raise ManifestError(f"{path}: has no header.", expected="a first line with the columns' names")
        needed = header.index(short_after) + 2 if short_after in header else len(header)
        yield from _unbroken(_whole(rows, header, needed), header, texts)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read.", got=str(error)) from None


def header_of(path: Path) -> list[str]:
    """Return the columns of a table.

    Raises:
        ManifestError: It cannot be read.
    """
    try:
        rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _tsv_rows(path, False)
        return next(rows, (0, []))[1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read.", got=str(error)) from None


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        first = 1
        for cells in reader:
            if cells and any(cell.strip() for cell in cells):
                yield first, cells
            first = reader.line_num + 1


def _tsv_rows(path: Path, escapes: bool) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        old_mac = "\n" not in (start := file.read(1 << 16)) and "\r" in start
    with open(path, encoding="utf-8-sig", newline="\r" if old_mac else "\n") as file:
        for number, line in enumerate(file, start=1):
            line = " ".join(line.rstrip("\r\n").split("\r"))
            line = line.replace("\0", "") if escapes else line
            if line.strip():
                yield number, _split(line) if escapes and "\\" in line else line.split("\t")


def _split(line: str) -> list[str]:
    """Split a line at its tabs, with backslash escapes."""
    return next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))


def _whole(
    rows: Iterator[tuple[int, list[str]]], header: list[str], needed: int
) -> Iterator[tuple[int, Cells]]:
    count = len(header)
    for line, cells in rows:
        if len(cells) > count:
            yield line, Broken("a row with more cells than the header", tuple(cells))
        elif len(cells) < needed:
            yield line, Broken("a row with fewer cells than the header", tuple(cells))
        else:
            yield line, dict(zip(header, cells + [""] * (count - len(cells)), strict=True))


def _unbroken(
    rows: Iterator[tuple[int, Cells]], header: list[str], texts: Collection[str]
) -> Iterator[tuple[int, Cells]]:
    """Break the neighbours of what is left of a text."""
    last, first = header[-1] in texts, header[0] in texts

    def rest(row: Cells | None) -> bool:
        return isinstance(row, Broken) and len(row.cells) == 1

    end: tuple[int, Cells | None] = (0, None)
    for (_, before), (line, row), (_, after) in _triples(itertools.chain(rows, [end])):
        if not isinstance(row, Broken) and ((last and rest(after)) or (first and rest(before))):
            yield line, Broken("a row whose text runs over its line", tuple(row.values()))
        else:
            yield line, row


def _triples(rows: Iterator[tuple[int, Cells | None]]) -> Iterator[tuple]:
    """Yield every row with the one before and the one after it."""
    before: tuple[int, Cells | None] = (0, None)
    row = next(rows)
    for after in rows:
        yield before, row, after
        before, row = row, after
