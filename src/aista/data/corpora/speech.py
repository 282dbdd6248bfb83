"""Corpora of speech: LibriSpeech, GigaSpeech, and CoVoST 2 with its translations."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aista.data.corpora import Absent, Corpus, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.data.text_files import Broken, array_items, read_rows
from aista.errors import ConfigError
from aista.text.normalize import gigaspeech_text, sentence_case

# ---- LibriSpeech (openslr.org/12): SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside FLAC files


def _librispeech(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
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


LIBRISPEECH = Corpus(
    NOTE="Transcripts are lower-cased with a capital first letter: the corpus has no case and no "
    "punctuation.",
    sizes={
        "train-clean-100": Expected(28_539, 100.6),
        "train-clean-360": Expected(104_014, 363.6),
        "train-other-500": Expected(148_688, 496.7),
        "dev-clean": Expected(2_703, 5.4),
        "dev-other": Expected(2_864, 5.1),
        "test-clean": Expected(2_620, 5.4),
        "test-other": Expected(2_939, 5.3),
    },
    rows=_librispeech,
)

# ---- GigaSpeech (github.com/SpeechColab/GigaSpeech): one JSON of long Opus recordings and their segments


def _gigaspeech(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read a subset from the folder of ``GigaSpeech.json``; the subsets from XS to XL contain one another.

    Segments are read by offset from the long recordings: nothing is cut anew.
    """
    metadata = source / "GigaSpeech.json"
    if not metadata.is_file():
        raise Absent(f"{source} has no GigaSpeech.json.", expected="the folder it was downloaded to")
    subset = "{" + split + "}"
    for recording in array_items(metadata, "audios"):
        if subset not in recording["subsets"]:
            continue
        for segment in recording["segments"]:
            if subset in segment["subsets"]:
                yield _segment(source / recording["path"], segment)


def _segment(audio: Path, segment: dict) -> Utterance | LeftOut:
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


GIGASPEECH = Corpus(
    NOTE="Utterances tagged as silence, music, noise or other are left out, as the corpus recommends: 5,715 "
    "of 6,750 are left in DEV and 19,930 of 25,619 in TEST. The paper counts 680K samples in the M set of "
    "1,000 h and does not say by which rule; the corpus publishes hours alone for XS to L.",
    # Hours: the corpus' readme. Counts, without garbage utterances, as its users report them for version
    # 1.0.0: XL SpeechColab/GigaSpeech#128, TEST SpeechColab/GigaSpeech#87, DEV k2-fsa/snowfall#230.
    sizes={
        "XS": Expected(hours=10.0),
        "S": Expected(hours=250.0),
        "M": Expected(hours=1_000.0),
        "L": Expected(hours=2_500.0),
        "XL": Expected(8_282_988, 10_000.0),
        "DEV": Expected(5_715, 12.0),
        "TEST": Expected(19_930, 40.0),
    },
    rows=_gigaspeech,
)

# ---- CoVoST 2 (github.com/facebookresearch/covost): translations of Common Voice clips, any direction.
# The split follows the corpus' own script: train takes train and train_covost, dev and test only themselves.
# TSVs are read without quoting, with backslash escapes, as the corpus was written.

_REGIONAL = {"zh": "zh-CN", "sv": "sv-SE"}  # languages that the corpus writes with a region
_SPLIT_NAMES = ("train", "train_covost", "dev", "test")


def _covost2(source: Path, split: str, direction: str) -> Iterator[Utterance | LeftOut]:
    """Read a direction such as ``en-ja``.

    Args:
        source: The folder of a Common Voice language (``validated.tsv``, ``clips``), or one that holds it;
            the file ``covost_v2.en_ja.tsv`` lies there too, or in a folder ``covost2`` or ``translations``.

    Raises:
        Absent: A TSV or the clips cannot be found.
        ConfigError: The direction is malformed.
    """
    src, dash, tgt = direction.partition("-")
    if not dash or "en" not in (src, tgt) or src == tgt or "-" in tgt:
        raise ConfigError(
            f"Cannot read the direction {direction!r}.", expected="from or into en, e.g. en-ja, fr-en"
        )
    code, target = _REGIONAL.get(src, src), _REGIONAL.get(tgt, tgt)
    places = [source, source / code, *sorted(source.glob(f"cv-corpus-*/{code}"))]
    home = next((place for place in places if (place / "clips").is_dir()), None)
    if home is None:
        raise Absent(
            f"{source} has no folder clips.", expected=f"clips, {code}/clips or cv-corpus-*/{code}/clips"
        )
    folders = (source, home, source / "covost2", source / "translations", home / "covost2")

    def found(name: str) -> Path | None:
        return next((folder / name for folder in folders if (folder / name).is_file()), None)

    name = f"covost_v2.{code}_{target}"
    merged = found(f"{name}.{split}.tsv")
    table = merged or found(f"{name}.tsv")
    if table is None:
        raise Absent(
            f"{source} has no {name}.tsv.", advice="Get it from the CoVoST repository and put it there."
        )
    broken = _BrokenLines()
    if merged is not None:
        sentences = _lines(merged, broken)
        translations = {line["path"]: line["translation"] for line in _lines(merged, _BrokenLines())}
    else:
        sentences = _lines(home / "validated.tsv", broken)
        wanted = {"train", "train_covost"} if split == "train" else {split}
        translations = {
            line["path"]: line["translation"]
            for line in _lines(table, broken, wanted)
            if line["split"] in wanted
        }
    for line in sentences:
        translation = translations.pop(line["path"], None)
        if translation is not None:
            yield _translated(home / "clips", line, translation, src, tgt)
    yield from broken.rows
    for path in translations:
        if path not in broken.cells:
            yield LeftOut(path, "not in this Common Voice release")


@dataclass
class _BrokenLines:
    """Rows that are not whole, and what stands in their cells."""

    rows: list[LeftOut] = field(default_factory=list)
    cells: set[str] = field(default_factory=set)


def _translated(
    clips: Path, line: dict[str, str], translation: str, src: str, tgt: str
) -> Utterance | LeftOut:
    path = line["path"]
    if not translation.strip() or not line["sentence"].strip():
        return LeftOut(path, "empty sentence or translation")
    if translation.strip() == "REMOVE":
        return LeftOut(path, "REMOVE in place of a translation")
    return Utterance(
        id=f"{Path(path).stem}.{src}-{tgt}",
        # Releases differ in whether the TSV names the suffix.
        audio=str(clips / (path if Path(path).suffix else f"{path}.mp3")),
        src_lang=src,
        tgt_lang=tgt,
        text=line["sentence"].strip(),
        translation=translation.strip(),
        task="st",
        speaker=line.get("client_id", "")[:16] or None,
        corpus="covost2",
    )


def _lines(path: Path, broken: _BrokenLines, splits: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Read a TSV without quoting; a short line (a Common Voice quirk) is filled with empty fields.

    Args:
        broken: Takes the rows that are not whole, where a line end or a tab stands inside a sentence.
        splits: Where rows name their split last: those that are asked for.
    """
    if not path.is_file():
        raise Absent(f"{path} is missing.", expected="the TSV of a Common Voice release")
    for number, line in read_rows(
        path, escapes=True, texts=("sentence", "translation"), short_after="sentence"
    ):
        if not isinstance(line, Broken):
            yield line
        elif not splits or line.cells[-1] in splits or line.cells[-1] not in _SPLIT_NAMES:
            broken.rows.append(LeftOut(f"{path.name}:{number}", line.reason))
            broken.cells |= set(line.cells)


class _FromEnglish(Corpus):
    """A corpus whose published sizes are those of the directions from English."""

    def expected(self, split: str, direction: str = "", **options: str) -> Expected:
        """Return the published size of a split."""
        return self.sizes[split] if direction.startswith("en-") else Expected()


COVOST2 = _FromEnglish(
    NOTE="CoVoST 2 was made on Common Voice 4 (2019-12-10), which cannot be downloaded any more; later "
    "releases lack clips (release 13 has 15,511 of the 15,531 test clips). A score on fewer clips is another "
    "test: publish the number of clips beside it.",
    sizes={"train": Expected(289_430, 364.0), "dev": Expected(15_531), "test": Expected(15_531)},
    rows=_covost2,
)
