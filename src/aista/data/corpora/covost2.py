"""CoVoST 2: translations by TSV of Common Voice clips (github.com/facebookresearch/covost), any direction.

The split follows the corpus' own script: ``train`` takes ``train`` and ``train_covost``, ``dev`` and ``test``
only themselves. TSVs are read without quoting, with backslash escapes, as the corpus was written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aista.data.corpora import Absent, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.data.text_files import Broken, read_rows
from aista.errors import ConfigError

NOTE = (
    "CoVoST 2 was made on Common Voice 4 (2019-12-10), which cannot be downloaded any more; later releases "
    "lack clips (release 13 has 15,511 of the 15,531 test clips). A score on fewer clips is another test: "
    "publish the number of clips beside it."
)
SPLITS = ("train", "dev", "test")
_FROM_ENGLISH = {"train": Expected(289_430, 364.0), "dev": Expected(15_531), "test": Expected(15_531)}
# The corpus writes these languages with a region.
_REGIONAL = {"zh": "zh-CN", "sv": "sv-SE"}

_SPLIT_NAMES = ("train", "train_covost", "dev", "test")
_TEXTS = ("sentence", "translation")


def expected(split: str, direction: str) -> Expected:
    """Return the published size of a split (known here for all directions from English)."""
    return _FROM_ENGLISH[split] if direction.startswith("en-") else Expected()


def rows(source: Path, split: str, direction: str) -> Iterator[Utterance | LeftOut]:
    """Read a direction such as ``en-ja``.

    Args:
        source: The folder of a Common Voice language (``validated.tsv``, ``clips``), or one that holds it;
            the file ``covost_v2.en_ja.tsv`` lies there too, or in a folder ``covost2`` or ``translations``.

    Raises:
        Absent: A TSV or the clips cannot be found.
        ConfigError: The direction is malformed.
    """
    src, tgt = _languages(direction)
    home = _common_voice(source, src)
    name = f"covost_v2.{_REGIONAL.get(src, src)}_{_REGIONAL.get(tgt, tgt)}"
    merged = _find(source, home, f"{name}.{split}.tsv")
    found = merged or _find(source, home, f"{name}.tsv")
    if found is None:
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
            for line in _lines(found, broken, wanted)
            if line["split"] in wanted
        }
    for line in sentences:
        translation = translations.pop(line["path"], None)
        if translation is not None:
            yield _row(home / "clips", line, translation, src, tgt)
    yield from broken.rows
    for path in translations:
        if path not in broken.cells:
            yield LeftOut(path, "not in this Common Voice release")


@dataclass
class _BrokenLines:
    """Rows that are not whole, and what stands in their cells."""

    rows: list[LeftOut] = field(default_factory=list)
    cells: set[str] = field(default_factory=set)


def _row(clips: Path, line: dict[str, str], translation: str, src: str, tgt: str) -> Utterance | LeftOut:
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


def _languages(direction: str) -> tuple[str, str]:
    src, dash, tgt = direction.partition("-")
    if not dash or "en" not in (src, tgt) or src == tgt or "-" in tgt:
        raise ConfigError(
            f"Cannot read the direction {direction!r}.", expected="from or into en, e.g. en-ja, fr-en"
        )
    return src, tgt


def _common_voice(source: Path, src: str) -> Path:
    """Return the folder that holds ``clips``."""
    code = _REGIONAL.get(src, src)
    places = [source, source / code, *sorted(source.glob(f"cv-corpus-*/{code}"))]
    for place in places:
        if (place / "clips").is_dir():
            return place
    raise Absent(
        f"{source} has no folder clips.", expected=f"clips, {code}/clips or cv-corpus-*/{code}/clips"
    )


def _find(source: Path, home: Path, name: str) -> Path | None:
    folders = (source, home, source / "covost2", source / "translations", home / "covost2")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _lines(path: Path, broken: _BrokenLines, splits: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Read a TSV without quoting; a short line (a Common Voice quirk) is filled with empty fields.

    Args:
        broken: Takes the rows that are not whole, where a line end or a tab stands inside a sentence.
        splits: Where rows name their split last: those that are asked for.
    """
    if not path.is_file():
        raise Absent(f"{path} is missing.", expected="the TSV of a Common Voice release")
    for number, line in read_rows(path, escapes=True, texts=_TEXTS, short_after="sentence"):
        if not isinstance(line, Broken):
            yield line
        elif not splits or line.cells[-1] in splits or line.cells[-1] not in _SPLIT_NAMES:
            broken.rows.append(LeftOut(f"{path.name}:{number}", line.reason))
            broken.cells |= set(line.cells)
