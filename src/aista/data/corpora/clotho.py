"""Clotho 2.1: 15 to 30 s sounds with five captions each (zenodo.org/records/4783391)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aista.data.corpora import Absent, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.data.text_files import Broken, read_rows

NOTE = "Every clip has five captions, one row each; the paper's 4K counts the 3,839 clips of development."
_CLIPS = {"development": 3_839, "validation": 1_045, "evaluation": 1_045}
SPLITS = tuple(_CLIPS)
_CAPTIONS = 5


def expected(split: str) -> Expected:
    """Return the published number of captions."""
    return Expected(_CLIPS[split] * _CAPTIONS)


def rows(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read ``clotho_captions_SPLIT.csv`` and the clips under ``SPLIT`` or ``clotho_audio_SPLIT/SPLIT``."""
    table = source / f"clotho_captions_{split}.csv"
    if not table.is_file():
        raise Absent(f"{source} has no {table.name}.")
    places = (source / split, source / f"clotho_audio_{split}" / split, source / f"clotho_audio_{split}")
    folder = next((place for place in places if place.is_dir()), source)
    captions = [f"caption_{number}" for number in range(1, _CAPTIONS + 1)]
    for at, line in read_rows(table, texts=captions):
        if isinstance(line, Broken):
            yield LeftOut(f"{table.name}:{at}", line.reason)
            continue
        name = line["file_name"]
        for number, column in enumerate(captions, start=1):
            caption = line.get(column, "").strip()
            row_id = f"clotho-{split}-{Path(name).stem}#{number}"
            if not caption:
                yield LeftOut(row_id, "empty caption")
                continue
            # File names keep the spaces their owners gave them, some of them at the end.
            path = next((p for p in (folder / name, folder / name.strip()) if p.is_file()), folder / name)
            yield Utterance(id=row_id, audio=str(path), text=caption, task="aac", corpus="clotho")
