"""``data check`` says what is odd about a sound, and how long joined files are."""

from __future__ import annotations

import json

import numpy as np

from aista.data.checks import check
from aista.data.manifest import Manifest
from tests.audio.sounds import encoded, tone, without_length


def test_offsets_cuts_and_joined_files_are_told(tmp_path):
    loud = tone(1.5)
    wav = encoded(loud, format="WAV")
    sounds = {
        "offset.wav": encoded(loud + np.float32(0.1), format="WAV"),
        "phase.wav": encoded(np.stack([loud, -loud], axis=1), format="WAV"),
        "cut.wav": wav[: len(wav) // 2],
        "good.wav": wav,
        "joined.mp3": encoded(loud, format="MP3") * 2,
        "piped.flac": without_length(encoded(loud, format="FLAC")),
    }
    rows = []
    for name, data in sounds.items():
        (tmp_path / name).write_bytes(data)
        rows.append({"id": name, "audio": name, "task": "asr", "src_lang": "en", "text": "a word"})
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    decoded, headers = check(Manifest(path), decode=True), check(Manifest(path))
    told = " ".join(decoded.problems["odd audio"].examples)
    assert decoded.problems["odd audio"].count == 3 and "good" not in told
    assert all(word in told for word in ("DC offset of 0.100", "channels cancel", "cut off"))
    assert headers.problems["odd audio"].count == 1
    for report in (decoded, headers):
        assert abs(report.hours * 3600 - (4 * 1.5 + 0.75 + 3.0)) < 0.3
