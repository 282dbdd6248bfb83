"""Other tools' manifests: formats found by their names, each readable and (mostly) writable.

Those with one flat row an utterance stand together in ``rows``; a module of this package, or a dotted name
outside it, is another format. It offers

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aista import plugins
from aista.audio.archives import archive_of
from aista.audio.files import probe
from aista.data.manifest import (
    Manifest,
    Utterance,
    answer_field,
    complaints,
    numbered,
    refuse_overwriting,
    relative_audio,
    write_manifest,
)
from aista.data.text_files import guarded
from aista.errors import AudioError, ConfigError, ManifestError
from aista.files import draft_of
from aista.text.prompts import code_of

Row = dict[str, Any]

_TEXTS = ("id", "text", "translation", "prompt", "speaker", "corpus")  # numbers in them are texts too
_LANGUAGES = ("src_lang", "tgt_lang")
_TAKERS = {  # option -> the built-in formats that have a use for it
    "columns": ("table", "huggingface"),
    "split": ("huggingface",),
    "audio_root": ("table", "salmonn", "nemo", "qwen", "slam", "lhotse", "huggingface"),
}
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

    rows: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, counts: dict[str, int], reason: str, where: str) -> None:
        """Count a row for a reason, and keep the place of the first few."""
        counts[reason] = counts.get(reason, 0) + 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES:
            places.append(where)


def names() -> list[str]:
    """Return the names of the built-in formats."""
    from aista.data.importers.rows import FORMATS

    return plugins.names(__name__, ("rows",), FORMATS)


def importer(name: str) -> Any:
    """Return a format by its name, or by a dotted name outside this package.

    Raises:
        ConfigError: There is no such format.
    """
    from aista.data.importers.rows import FORMATS

    return plugins.find(__name__, name, kind="format", hidden=("rows",), table=FORMATS)


def import_manifest(
    name: str, source: str | os.PathLike, out: str | os.PathLike, options: Options
) -> Imported:
    """Turn another tool's data into a manifest.

    Ids may be numbers, and languages may be written as other tools do (``zh-CN``, ``eng``, ``Chinese``). An
    id that stood before gets ``#2``, ``#3`` ... at its end. Where a row does not say how long its sound is,
    the header of its file is read; whether it can be decoded is what ``aista data check`` finds out. Where no
    row is given nothing is written: a manifest that was there stays.

    Raises:
        ConfigError: Unknown format, an option that it does not take, or one it cannot do without.
        ManifestError: The source is missing or malformed, it is also what would be written, or no row can be
            used; the message says where.
    """
    module, source, out = importer(name), Path(source), Path(out)
    _must_take(name, options)
    refuse_overwriting([out], [source])
    root = os.path.realpath(options.audio_root or (source if source.is_dir() else source.parent))
    home = os.path.realpath(out.parent)
    found = Imported()

    def rows() -> Iterator[Utterance]:
        usable, unusable = 0, None
        given = module.read(source, replace(options, out=out))
        given = guarded(given, str(source), lambda pair: pair[0], "Is it of this format, and whole?")
        for where, row in given:
            if isinstance(row, Skipped):
                found.count(found.skipped, row, where)
                continue
            try:
                if isinstance(row, ManifestError):
                    raise row
                fields = {key: value for key, value in row.items() if value is not None and value != ""}
                if (note := fields.pop(NOTE, None)) is not None:
                    found.count(found.notes, *note)
                if isinstance(fields.get("audio"), str):
                    fields["audio"] = relative_audio(os.path.join(root, fields["audio"]), home)
                utterance = _utterance(options.defaults | fields, where)
            except ManifestError as error:
                unusable = unusable or error
                said = isinstance(row, ManifestError)
                why = error.what.rpartition(": ")[2].rstrip(".") if said else error.got
                found.count(found.skipped, f"no utterance: {why}", where)
                continue
            usable += 1
            answer = answer_field(utterance.task)
            if getattr(utterance, answer) is None:
                what = f"without {answer}: nothing to train task {utterance.task} on"
                found.count(found.notes, what, where)
            yield utterance
        if unusable is not None and not usable:
            raise unusable

    def measured(row: Utterance) -> Utterance:
        """Give a row without a duration that of its file; one that cannot be read stays without."""
        if row.audio is None or row.duration is not None:
            return row
        try:
            sound = os.path.normpath(os.path.join(home, row.audio))
            seconds = round(probe(sound).duration_seconds - row.offset, 4)
        except AudioError:
            return row
        return row.model_copy(update={"duration": seconds}) if seconds > 0 else row

    def noted(row: Utterance) -> Utterance:
        if row.audio is not None and row.duration is None:
            found.count(found.notes, "sound that is missing, empty or cannot be read", row.audio)
        return row

    with ThreadPoolExecutor(_READERS) as pool:
        every = rows()
        batches = iter(lambda: list(islice(every, _ROWS_AT_ONCE)), [])
        measured_rows = (noted(row) for batch in batches for row in pool.map(measured, batch))
        if (first := next(measured_rows, None)) is None:
            return found
        return replace(found, rows=write_manifest(out, numbered(chain([first], measured_rows))))


def _must_take(name: str, options: Options) -> None:
    """Refuse an option that a built-in format would ignore."""
    for option, takers in _TAKERS.items():
        if name in names() and name not in takers and getattr(options, option):
            flag = {"columns": "column"}.get(option, option.replace("_", "-"))
            raise ConfigError(
                f"The format {name!r} takes no --{flag}.",
                got=getattr(options, option),
                expected=f"--{flag} with {', '.join(takers)}",
                advice=f"Leave --{flag} out.",
            )


def export_manifest(name: str, manifest: Manifest, out: str | os.PathLike) -> int:
    """Write a manifest in another tool's format, audio paths absolute; return the number of rows.

    Raises:
        ConfigError: Unknown format, or one that can only be read.
        ManifestError: A row has segments, which no other format holds, or lies in a tar shard, where other
            tools do not look (a table comes back to this one), or ``out`` is the manifest itself.
    """
    module, path = importer(name), Path(out)
    if not hasattr(module, "write"):
        raise ConfigError(f"The format {name!r} can only be read.")
    refuse_overwriting([path], [manifest.path])

    def rows() -> Iterator[Utterance]:
        for utterance in manifest:
            if utterance.segments:
                raise ManifestError(
                    f"Utterance {utterance.id!r} has segments: {name} cannot hold them.",
                    advice="Cut the long rows at them first: aista data cut.",
                )
            audio = utterance.audio and str(manifest.audio_path(utterance))
            if audio and name != "table" and archive_of(Path(audio)):
                raise ManifestError(
                    f"The sound of utterance {utterance.id!r} lies in a tar shard: no other tool reads it.",
                    got=audio,
                    advice="Export the manifest that the shards were made from.",
                )
            yield utterance.model_copy(update={"audio": audio})

    with draft_of(path, suffix=path.suffix) as draft:
        module.write(rows(), draft)
    return len(manifest)


def _utterance(row: Row, where: str) -> Utterance:
    texts = {key: str(value) for key, value in row.items() if key in _TEXTS and type(value) in (int, float)}
    codes = {key: language_code(row[key]) for key in _LANGUAGES if isinstance(row.get(key), str)}
    try:
        return Utterance(**row | texts | codes)
    except ValidationError as error:
        raise ManifestError(
            f"{where}: gives no utterance.",
            got="; ".join(complaints(error)),
            expected="what its task needs",
            advice="Give what is missing with --task, --src-lang, --tgt-lang or --column.",
        ) from None


def language_code(form: str) -> str:
    """Return the ISO code of a language in any form; of one that is not known, its primary subtag."""
    try:
        return code_of(form)
    except ConfigError:
        primary = form.strip().lower().replace("_", "-").split("-")[0]
        return form if primary in ("zh", "zho", "cmn", "chi") else primary


def stem(path: str) -> str:
    """Return a file's name without folder and suffix: an id where the format has none."""
    return Path(path).stem
