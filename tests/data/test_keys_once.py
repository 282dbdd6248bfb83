"""A key that stands twice in a row is told with its line, wherever rows are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from aista.data.manifest import Manifest
from aista.data.text_files import read_json_lines
from aista.errors import ManifestError

ROWS = (
    '{"id": "a", "task": "mt", "text": "x", "tgt_lang": "zh", "text": "y"}',
    '{"id": "a", "id": "a", "task": "mt", "text": "x", "tgt_lang": "zh"}',
    '{"id": "a", "audio": "a.wav", "segments": [{"offset": 0, "duration": 1, "text": "x", "offset": 0}]}',
)
GOOD = '{"id": "g", "task": "mt", "text": "text: {\\"text\\": 1, \\"text\\": 2}", "tgt_lang": "zh"}'


@pytest.mark.parametrize("row", ROWS)
def test_a_key_twice_is_told_with_its_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f"{GOOD}\n{row}\n")
    for read in (lambda: list(Manifest(path)), lambda: list(read_json_lines(path))):
        with pytest.raises(ManifestError, match=r"m\.jsonl:2: a key stands twice"):
            read()


def test_a_key_in_a_text_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(GOOD + "\n")
    assert len(list(Manifest(path))) == len(list(read_json_lines(path))) == 1
