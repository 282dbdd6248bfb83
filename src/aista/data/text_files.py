"""JSON lines, one big JSON array, tables: read with exact places in errors, whoever wrote them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from aista.data.manifest import KeyTwiceError, keys_once
from aista.errors import ManifestError


def _unreadable(path: Path, error: Exception) -> ManifestError:
    advice = "Save it as text in UTF-8." if isinstance(error, UnicodeDecodeError) else None
    return ManifestError(f"{path}: cannot be read.", got=str(error), advice=advice)


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``file:line``, object) for every line that is not blank; ``.gz`` is unpacked.

    Raises:
        ManifestError: The file is missing, or a line is no JSON object.
    """
    opening = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opening(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    row = json.loads(line, object_pairs_hook=keys_once)
                except json.JSONDecodeError as error:
                    raise ManifestError(f"{where}: no JSON.", got=error.msg) from None
                except KeyTwiceError as error:
                    raise ManifestError(f"{where}: a key stands twice.", got=error) from None
                if not isinstance(row, dict):
                    raise ManifestError(f"{where}: no JSON object.", got=type(row).__name__)
                yield where, row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects, one a line, leaving out keys whose value is None; ``.gz`` is packed, undated."""
    with ExitStack() as stack:
        binary: Any = stack.enter_context(open(path, "wb"))
        if path.suffix.lower() == ".gz":
            binary = stack.enter_context(gzip.GzipFile("", "wb", fileobj=binary, mtime=0))
        file = stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8", newline="\n"))
        for row in rows:
            kept = {key: value for key, value in row.items() if value is not None}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")


_CHUNK_CHARACTERS = 1 << 20
_BETWEEN = re.compile(r"[\s,]*")


def array_items(path: Path, key: str) -> Iterator[Any]:
    """Yield the items of the array ``key`` of the file's outermost object, or of the file if it is an array.

    Raises:
        ManifestError: There is no such array, or the JSON is broken.
    """
    decoder = json.JSONDecoder()
    try:
        with open(path, encoding="utf-8-sig") as file:
            buffer, position = _from_array_start(file, path, key), 0
            while True:
                position = _BETWEEN.match(buffer, position).end()  # type: ignore[union-attr]
                if buffer[position : position + 1] == "]":
                    return
                try:
                    item, position = decoder.raw_decode(buffer, position)
                    # A number may go on in the next chunk; only objects, arrays and strings end visibly.
                except json.JSONDecodeError as error:
                    more = file.read(max(_CHUNK_CHARACTERS, len(buffer) - position))
                    if not more:
                        what = f"{path}: broken JSON in the array {key!r}."
                        raise ManifestError(what, got=error.msg, advice="Download it again.") from None
                    buffer, position = buffer[position:] + more, 0
                    continue
                yield item
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def _from_array_start(file: TextIO, path: Path, key: str) -> str:
    """Read on until the array starts; return what follows its bracket."""
    buffer = file.read(_CHUNK_CHARACTERS)
    if buffer.lstrip().startswith("["):
        return buffer.lstrip()[1:]
    start = re.compile(rf'"{re.escape(key)}"\s*:\s*\[')
    while not (found := start.search(buffer)):
        more = file.read(_CHUNK_CHARACTERS)
        if not more:
            raise ManifestError(f"{path}: has no array {key!r}.", advice="Is this the right file?")
        buffer = buffer[-200:] + more
    return buffer[found.end() :]


Row = TypeVar("Row")

# What code raises over a value of another kind than it was written for.
_UNFORESEEN = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, EOFError, zlib.error,
    csv.Error,
)  # fmt: skip


def guarded(rows: Iterator[Row], source: str, name: Callable[[Row], str], advice: str) -> Iterator[Row]:
    """Yield rows as a reader gives them.

    Args:
        source: What is read, for messages.
        name: Says which row it was.
        advice: What the reader of the message can do.

    Raises:
        ManifestError: The reader failed over what it read; the message names the row before.
    """
    last = "the first row"
    try:
        for row in rows:
            yield row
            last = f"the row after {name(row)}"
    except _UNFORESEEN as error:
        what = str(error).strip().split("\n")[0]
        raise ManifestError(
            f"{source}: broken at {last}.", got=f"{type(error).__name__}: {what}", advice=advice
        ) from None


csv.field_size_limit(1 << 24)
_SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)


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

    ``.csv`` is read with quotes, its cells apart by what separates the columns' names: commas or, as
    spreadsheets write it in many countries, semicolons, or tabs; a line ``sep=;`` before them, which tells
    Excel, is obeyed. Anything else is read as TSV without quotes;
    there a row ends at a line feed, and a carriage return inside it is a space of its text.

    Args:
        texts: Columns that hold what is said. A line of one cell is what is left of a text that ran over its
            line: where the last column is such a text the row before is broken too, where the first is, the
            row after.
        escapes: A backslash takes the meaning from the character after it (Common Voice).
        short_after: A row that ends early is whole if it goes on after this column: its last cells are empty.

    Raises:
        ManifestError: The table cannot be read, or has no header.
    """
    header, rows = _opened(path, escapes)
    needed = header.index(short_after) + 2 if short_after in header else len(header)
    held: tuple[int, Cells] | None = None  # a row whose next one decides whether it is whole
    rest_before = False
    try:
        for line, cells in rows:
            row = _row(header, cells, needed)
            rest = isinstance(row, Broken) and len(row.cells) == 1
            if rest_before and header[0] in texts:
                row = _run_over(row)
            if held is not None:
                yield (held[0], _run_over(held[1])) if rest and header[-1] in texts else held
            held, rest_before = (line, row), rest
        if held is not None:
            yield held
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def header_of(path: Path) -> list[str]:
    """Return the columns of a table.

    Raises:
        ManifestError: It cannot be read, or has no header.
    """
    return _opened(path, False)[0]


def _opened(path: Path, escapes: bool) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the header of a table and, with their lines, the cells of its other rows."""
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _tsv_rows(path, escapes)
    try:
        _, header = next(rows, (0, []))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None
    if not header:
        raise ManifestError(f"{path}: has no header.", expected="a first line with the columns' names")
    return header, rows


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        told = _SEPARATOR.fullmatch(file.readline())
        before, start = (1, file.tell()) if told else (0, 0)
        signs = told[1] if told else ",;\t"
        for sign in signs:
            file.seek(start)
            if len(next(filter(None, csv.reader(file, delimiter=sign)), [])) > 1:
                break
        else:
            sign = signs[0]  # one column
        file.seek(start)
        reader = csv.reader(file, delimiter=sign)
        first = before + 1
        for cells in reader:
            if cells and any(cell.strip() for cell in cells):
                yield first, cells
            first = before + reader.line_num + 1


def _tsv_rows(path: Path, escapes: bool) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        old_mac = "\n" not in (start := file.read(1 << 16)) and "\r" in start
    with open(path, encoding="utf-8-sig", newline="\r" if old_mac else "\n") as file:
        for number, line in enumerate(file, start=1):
            line = " ".join(line.rstrip("\r\n").split("\r"))
            line = line.replace("\0", "") if escapes else line
            if line.strip() and escapes and "\\" in line:
                yield (
                    number,
                    next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")),
                )
            elif line.strip():
                yield number, line.split("\t")


def _row(header: list[str], cells: list[str], needed: int) -> Cells:
    if len(cells) > len(header):
        return Broken("a row with more cells than the header", tuple(cells))
    if len(cells) < needed:
        return Broken("a row with fewer cells than the header", tuple(cells))
    return dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True))


def _run_over(row: Cells) -> Broken:
    """Break a row beside what is left of one of its texts."""
    if isinstance(row, Broken):
        return row
    return Broken("a row whose text runs over its line", tuple(row.values()))
