"""Other tools' manifests: one module a format, found by its name, each readable and (mostly) writable.

A format module offers

* ``read(source, options) -> Iterator[tuple[str, Row | Skipped | ManifestError]]``: where a row stands (for
  messages), and the fields of an :class:`~aista.data.manifest.Utterance` that it gives, the audio's path as
  the format has it; or the error that stands for a row that is not of the format;
* ``write(rows, path)``: the same backwards, where the format can be written. Audio paths are absolute there.

A row that the format allows and an utterance cannot hold is a :class:`Skipped`: counted, with its reason and
the places of the first. So is a row that is an error or gives no utterance, unless no row gives one. What a
row gives less of than its source says is noted in the same way (``note``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from aista import plugins
from aista.audio.files import probe
from aista.data.manifest import Manifest, Utterance, complaints, numbered, write_manifest
from aista.data.text_files import guarded
from aista.errors import AudioError, ConfigError, ManifestError
from aista.files import draft_of
from aista.text.languages import code_of

Row = dict[str, Any]

_TEXTS = ("id", "text", "translation", "prompt", "speaker", "corpus")  # numbers in them are texts too
_LANGUAGES = ("src_lang", "tgt_lang")
_ROWS_AT_ONCE = 1024
_READERS = 4


NOTE = "note"
"""Key of a row's fields: what of its source the row does not hold, and where that stands (a pair)."""

EXAMPLES = 5


class Skipped(str):
    """Why a row does not become an utterance."""


@dataclass(frozen=True)
class Options:
    """What a format leaves open.

    Attributes:
        defaults: Values of fields that a row does not give (``task``, ``src_lang``, ``tgt_lang``, ...).
        columns: Field -> the source's column, for tables and data sets.
        audio_root: Folder that relative audio paths start from; by default that of the source.
        out: The manifest to write; sounds that lie inside the source are unpacked beside it.
        split: Which split of a data set.
    """

    defaults: Row = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    audio_root: Path | None = None
    out: Path | None = None
    split: str | None = None


@dataclass(frozen=True)
class Imported:
    """What an import gave.

    Attributes:
        rows: How many rows were written.
        skipped: Reason -> how many rows were not.
        notes: What of their source some rows do not hold -> how many rows.
        examples: Reason or note -> the places of the first few.
    """

    rows: int
    skipped: dict[str, int]
    notes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def names() -> list[str]:
    """Return the names of the built-in formats."""
    return plugins.names(__name__)


def importer(name: str) -> ModuleType:
    """Return a format module by its name, or by a dotted name outside this package.

    Raises:
        ConfigError: There is no such format.
    """
    return plugins.find(__name__, name, kind="format")


def import_manifest(
    name: str, source: str | os.PathLike, out: str | os.PathLike, options: Options
) -> Imported:
    """Turn another tool's data into a manifest.

    Ids may be numbers, and languages may be written as other tools do (``zh-CN``, ``eng``, ``Chinese``). An
    id that stood before gets ``#2``, ``#3`` ... at its end. Where a row does not say how long its sound is,
    the header of its file is read; whether it can be decoded is what ``aista data check`` finds out.

    Raises:
        ConfigError: Unknown format, or an option it cannot do without.
        ManifestError: The source is missing or malformed, or no row can be used; the message says where.
    """
    module, source, out = importer(name), Path(source), Path(out)
    root = options.audio_root or (source if source.is_dir() else source.parent)
    options = Options(options.defaults, options.columns, options.audio_root, out, options.split)
    skipped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}

    def count(counter: Counter[str], reason: str, where: str) -> None:
        counter[reason] += 1
        places = examples.setdefault(reason, [])
        if len(places) < EXAMPLES:
            places.append(where)

    def located(row: Row) -> Row:
        fields = {key: value for key, value in row.items() if value is not None and value != ""}
        if (note := fields.pop(NOTE, None)) is not None:
            count(notes, *note)
        if isinstance(fields.get("audio"), str):
            fields["audio"] = Path(os.path.relpath(root / fields["audio"], out.parent)).as_posix()
        return fields

    def rows() -> Iterator[Utterance]:
        usable, unusable = 0, None
        given = guarded(
            module.read(source, options),
            str(source),
            lambda pair: pair[0],
            "Is it of this format, and whole?",
        )
        for where, row in given:
            if isinstance(row, Skipped):
                count(skipped, row, where)
                continue
            try:
                if isinstance(row, ManifestError):
                    raise row
                utterance = _utterance(options.defaults | located(row), where)
            except ManifestError as error:
                unusable = unusable or error
                why = (
                    error.what.rpartition(": ")[2].rstrip(".")
                    if isinstance(row, ManifestError)
                    else error.got
                )
                count(skipped, f"no utterance: {why}", where)
                continue
            usable += 1
            answer = "translation" if utterance.task in ("st", "mt") else "text"
            if getattr(utterance, answer) is None:
                count(notes, f"without {answer}: nothing to train task {utterance.task} on", where)
            yield utterance
        if unusable is not None and not usable:
            raise unusable

    written = write_manifest(out, numbered(_measured(rows(), out.parent)))
    return Imported(written, dict(skipped), dict(notes), examples)


def _measured(rows: Iterator[Utterance], folder: Path) -> Iterator[Utterance]:
    """Give rows without a duration that of their file; one that cannot be read stays without."""

    def measured(row: Utterance) -> Utterance:
        if row.audio is None or row.duration is not None:
            return row
        try:
            seconds = round(probe(folder / row.audio).duration_seconds - row.offset, 4)
        except AudioError:
            return row
        return row.model_copy(update={"duration": seconds}) if seconds > 0 else row

    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            yield from pool.map(measured, batch)


def export_manifest(name: str, manifest: Manifest, out: str | os.PathLike) -> int:
    """Write a manifest in another tool's format, audio paths absolute; return the number of rows.

    Raises:
        ConfigError: Unknown format, or one that can only be read.
        ManifestError: A row has segments, which no other format holds.
    """
    module = importer(name)
    if not hasattr(module, "write"):
        raise ConfigError(f"The format {name!r} can only be read.")
    folder = os.path.abspath(manifest.path.parent)

    def rows() -> Iterator[Utterance]:
        for utterance in manifest:
            if utterance.segments:
                raise ManifestError(
                    f"Utterance {utterance.id!r} has segments: {name} cannot hold them.",
                    advice="Cut the long rows at them first: aista data cut.",
                )
            audio = utterance.audio and os.path.normpath(os.path.join(folder, utterance.audio))
            yield utterance.model_copy(update={"audio": audio})

    path = Path(out)
    with draft_of(path, suffix=path.suffix) as draft:
        module.write(rows(), draft)
    return len(manifest)


def _utterance(row: Row, where: str) -> Utterance:
    texts = {key: str(value) for key, value in row.items() if key in _TEXTS and type(value) in (int, float)}
    try:
        return Utterance(**row | texts | {key: _code(row[key]) for key in _LANGUAGES if row.get(key)})
    except ValidationError as error:
        raise ManifestError(
            f"{where}: gives no utterance.",
            got="; ".join(complaints(error)),
            expected="what its task needs",
            advice="Give what is missing with --task, --src-lang, --tgt-lang or --column.",
        ) from None


def _code(form: Any) -> Any:
    """Return the ISO code of a language in any form; of one that is not known, its primary subtag."""
    if not isinstance(form, str):
        return form
    try:
        return code_of(form)
    except ConfigError:
        primary = form.strip().lower().replace("_", "-").split("-")[0]
        return form if primary in ("zh", "zho", "cmn", "chi") else primary


def unless_it_has_a_channel(row: Utterance, format_name: str) -> Utterance:
    """Return the row, for formats that cannot name a channel.

    Raises:
        ManifestError: It is one channel of its file.
    """
    if row.channel is not None:
        raise ManifestError(
            f"Utterance {row.id!r} is channel {row.channel} of its file: {format_name} cannot say so.",
            advice="Write the sounds as files of their own first: aista data shard.",
        )
    return row


def stem(path: str) -> str:
    """Return a file's name without folder and suffix: an id where the format has none."""
    return Path(path).stem
