"""Qwen-Audio: JSON lines ``audio, gt, source``; ``source`` names the test set, e.g. ``covost2_en_zh_test``.

``gt`` may hold transcript and translation around a language tag (``Hello.<|zh|>你好。``), as chain-of-thought
recipes write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from aista.data.importers import Options, Row, stem, unless_it_has_a_channel
from aista.data.manifest import Utterance
from aista.data.text_files import read_json_lines, write_json_lines
from aista.errors import ManifestError
from aista.text.languages import LANGUAGES

_DIRECTION = re.compile(r"(?:^|_)([a-z]{2})[-_2]*([a-z]{2})(?=_|$)")
_TAGGED = re.compile(r"^(.*?)<\|([a-z]{2})\|>(.*)$", re.DOTALL)


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | ManifestError]]:
    """Read an evaluation file; the direction comes from the row's tag, its ``source``, or the defaults."""
    for where, row in read_json_lines(source):
        if not isinstance(row.get("audio"), str) or "gt" not in row:
            yield where, ManifestError(f"{where}: lacks audio or gt.", got=sorted(row))
            continue
        yield where, {"id": stem(row["audio"]), "audio": row["audio"], **_answer(row, options)}


def _answer(row: Row, options: Options) -> Row:
    test_set = str(row.get("source", ""))
    fields: Row = {"corpus": test_set or None}
    if found := _DIRECTION.search(test_set):
        src, tgt = found.groups()
        if src in LANGUAGES and tgt in LANGUAGES and src != tgt:
            fields |= {"src_lang": src, "tgt_lang": tgt, "task": "st"}
    if tagged := _TAGGED.match(str(row["gt"])):
        text, tgt, translation = tagged.groups()
        return fields | {
            "text": text.strip(),
            "translation": translation.strip(),
            "tgt_lang": tgt,
            "task": "st",
        }
    task = fields.get("task", options.defaults.get("task", "asr"))
    return fields | {"translation" if task == "st" else "text": row["gt"]}


def write(rows: Iterable[Utterance], path: Path) -> None:
    """Write an evaluation file; ``source`` is the corpus with the direction.

    Raises:
        ManifestError: A row is a span or a channel of a file: the format cannot say so.
    """
    write_json_lines(path, map(_line, rows))


def _line(row: Utterance) -> Row:
    unless_it_has_a_channel(row, "Qwen-Audio")
    if row.offset:
        raise ManifestError(f"Utterance {row.id!r} is a span of a file.", got=f"offset {row.offset:g} s")
    direction = f"{row.src_lang}_{row.tgt_lang}" if row.task == "st" else row.src_lang
    return {"audio": row.audio, "gt": row.target, "source": f"{row.corpus or 'own'}_{direction}"}
