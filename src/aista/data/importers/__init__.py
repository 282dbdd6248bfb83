"""Other tools' manifests: one module a format, found by its name, each readable and (mostly) writable.

A format module offers

* ``read(source, options) -> Iterator[tuple[str, Row | Skipped]]``: where a row stands (for messages), and the
  fields of an :class:`~aista.data.manifest.Utterance` that it gives, the audio's path as the format has it;
* ``write(rows, path)``: the same backwards, where the format can be written. Audio paths are absolute there.

A row that the format allows and an utterance cannot hold is a :class:`Skipped`: counted, with its reason.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from aista.data.foreign_rows import guarded
from aista.data.manifest import Manifest, Utterance, complaints, write_manifest
from aista.errors import ConfigError, ManifestError

Row = dict[str, Any]


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
    """How many rows were written, and why how many were not."""

    rows: int
    skipped: dict[str, int]


def names() -> list[str]:
    """Return the names of the built-in formats."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def importer(name: str) -> ModuleType:
    """Return a format module by its name, or by a dotted name outside this package.

    Raises:
        ConfigError: There is no such format.
    """
    module = name if "." in name else f"{__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            advice = f"pip install {error.name}"
            raise ConfigError(f"The format {name!r} needs {error.name}.", advice=advice) from None
        raise ConfigError(f"There is no format {name!r}.", expected=", ".join(names())) from None


def import_manifest(
    name: str, source: str | os.PathLike, out: str | os.PathLike, options: Options
) -> Imported:
    """Turn another tool's data into a manifest.

    An id that stood before gets ``#2``, ``#3`` ... at its end. Audio is not read: that is what ``aista data
    check`` does.

    Raises:
        ConfigError: Unknown format, or an option it cannot do without.
        ManifestError: The source is missing or malformed, or a row cannot be used; the message says where.
    """
    module, source, out = importer(name), Path(source), Path(out)
    root = options.audio_root or (source if source.is_dir() else source.parent)
    options = Options(options.defaults, options.columns, options.audio_root, out, options.split)
    skipped: Counter[str] = Counter()
    seen: Counter[str] = Counter()

    def utterances() -> Iterator[Utterance]:
        rows = guarded(
            module.read(source, options),
            str(source),
            lambda pair: pair[0],
            "Is it of this format, and whole?",
        )
        for where, row in rows:
            if isinstance(row, Skipped):
                skipped[row] += 1
                continue
            given = {key: value for key, value in row.items() if value is not None}
            if isinstance(given.get("audio"), str):
                path = os.path.relpath(root / given["audio"], out.parent)
                given["audio"] = Path(path).as_posix()
            utterance = _utterance(options.defaults | given, where)
            seen[utterance.id] += 1
            times = seen[utterance.id]
            yield utterance if times == 1 else utterance.model_copy(update={"id": f"{utterance.id}#{times}"})

    rows = write_manifest(out, utterances())
    return Imported(rows, dict(skipped))


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
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        module.write(rows(), draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return len(manifest)


def _utterance(row: Row, where: str) -> Utterance:
    try:
        return Utterance(**row)
    except ValidationError as error:
        raise ManifestError(
            f"{where}: gives no utterance.",
            got="; ".join(complaints(error)),
            expected="what its task needs",
            advice="Give what is missing with --task, --src-lang, --tgt-lang or --column.",
        ) from None


def stem(path: str) -> str:
    """Return a file's name without folder and suffix: an id where the format has none."""
    return Path(path).stem
