"""GigaSpeech: one JSON of long Opus recordings and their segments (github.com/SpeechColab/GigaSpeech).

Segments are read by offset from the long recordings: nothing is cut anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aista.data.corpora import Absent, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.data.text_files import array_items
from aista.text.normalize import gigaspeech_text

NOTE = (
    "Utterances tagged as silence, music, noise or other are left out, as the corpus recommends: 5,715 of "
    "6,750 are left in DEV and 19,930 of 25,619 in TEST. The paper counts 680K samples in the M set of "
    "1,000 h and does not say by which rule; the corpus publishes hours alone for XS to L."
)

# Hours: the corpus' readme. Counts, without garbage utterances, as its users report them for version 1.0.0:
# XL SpeechColab/GigaSpeech#128, TEST SpeechColab/GigaSpeech#87, DEV k2-fsa/snowfall#230.
_EXPECTED = {
    "XS": Expected(hours=10.0),
    "S": Expected(hours=250.0),
    "M": Expected(hours=1_000.0),
    "L": Expected(hours=2_500.0),
    "XL": Expected(8_282_988, 10_000.0),
    "DEV": Expected(5_715, 12.0),
    "TEST": Expected(19_930, 40.0),
}
SPLITS = tuple(_EXPECTED)


def expected(split: str) -> Expected:
    """Return the published size of a subset."""
    return _EXPECTED[split]


def rows(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read a subset from the folder of ``GigaSpeech.json``; the subsets from XS to XL contain one another."""
    metadata = source / "GigaSpeech.json"
    if not metadata.is_file():
        raise Absent(f"{source} has no GigaSpeech.json.", expected="the folder it was downloaded to")
    subset = "{" + split + "}"
    for recording in array_items(metadata, "audios"):
        if subset not in recording["subsets"]:
            continue
        for segment in recording["segments"]:
            if subset in segment["subsets"]:
                yield _row(source / recording["path"], segment)


def _row(audio: Path, segment: dict) -> Utterance | LeftOut:
    text = gigaspeech_text(segment["text_tn"])
    begin, end = float(segment["begin_time"]), float(segment["end_time"])
    if text is None:
        return LeftOut(segment["sid"], "garbage utterance (silence, music, noise or other)")
    if not text or end <= begin:
        return LeftOut(segment["sid"], "empty transcript" if not text else "no duration")
    speaker = segment.get("speaker", "N/A")
    return Utterance(
        id=segment["sid"],
        audio=str(audio),
        offset=begin,
        duration=round(end - begin, 6),
        text=text,
        speaker=None if speaker == "N/A" else speaker,
        corpus="gigaspeech",
    )
