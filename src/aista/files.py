"""Files that appear whole or not at all: whoever reads them, and whoever was killed while writing them."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file (UTF-8) in one go: a crash leaves what was there before.

    Its folder is made. Processes that write the same file side by side do not mix their texts; the last one
    stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
