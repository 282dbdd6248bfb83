"""Rows of files that others wrote: what nobody foresaw in them is an error of ours, not a traceback."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import TypeVar

from aista.errors import ManifestError

Row = TypeVar("Row")

# What code raises over a value of another kind than it was written for.
_UNFORESEEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, csv.Error)


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
