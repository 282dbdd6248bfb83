"""LibriSpeech: ``SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside FLAC files (openslr.org/12)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aista.data.corpora import Absent, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.text.normalize import sentence_case

NOTE = "Transcripts are lower-cased with a capital first letter: the corpus has no case and no punctuation."

_EXPECTED = {
    "train-clean-100": Expected(28_539, 100.6),
    "train-clean-360": Expected(104_014, 363.6),
    "train-other-500": Expected(148_688, 496.7),
    "dev-clean": Expected(2_703, 5.4),
    "dev-other": Expected(2_864, 5.1),
    "test-clean": Expected(2_620, 5.4),
    "test-other": Expected(2_939, 5.3),
}
SPLITS = tuple(_EXPECTED)


def expected(split: str) -> Expected:
    """Return the published size of a split."""
    return _EXPECTED[split]


def rows(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read a split of the folder ``LibriSpeech``, or of the folder that holds it."""
    folder = next((f for f in (source / split, source / "LibriSpeech" / split) if f.is_dir()), None)
    if folder is None:
        raise Absent(f"{source} has no folder {split}.", expected="LibriSpeech as it is unpacked")
    for transcripts in sorted(folder.glob("[!.]*/[!.]*/[!.]*.trans.txt")):
        for line in transcripts.read_text(encoding="utf-8").split("\n"):
            name, _, text = line.strip().partition(" ")
            if not text:
                if name:
                    yield LeftOut(name, "empty transcript")
                continue
            yield Utterance(
                id=name,
                audio=str(transcripts.parent / f"{name}.flac"),
                text=sentence_case(text),
                speaker=name.split("-")[0],
                corpus="librispeech",
            )
