"""From a corpus as it is downloaded to manifests: measured, resumable, nothing dropped in silence.

The six corpora of the paper are :class:`Corpus` objects, found by their names. A module of this package, or a
third party's by its dotted name, is another corpus if it defines

* ``SPLITS``: the names of its splits;
* ``NOTE``: one or two sentences on why counts (and so scores) may differ from published ones;
* ``expected(split, **options) -> Expected``: how many rows and hours were published;
* ``rows(source, split, **options) -> Iterator[Utterance | LeftOut]``: the rows of a split, audio as a path
  from the working directory. It raises :class:`Absent` where the source does not hold the split;
* optionally ``MAX_SECONDS``: longer clips are left out; ``note(source, split, **options) -> str`` in place of
  ``NOTE``, where it depends on what was found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from aista import plugins
from aista.audio.files import SPAN_TOLERANCE_SECONDS, probe
from aista.data.manifest import Utterance, relative_audio, write_manifest
from aista.data.text_files import guarded
from aista.data.too_long import NO_LIMITS, Limits, fit, refuse
from aista.errors import AudioError, ConfigError, ManifestError
from aista.files import named, write_whole

_ROWS_AT_ONCE = 1024
_EXAMPLES = 5
_FILES = ("captions", "speech")


@dataclass(frozen=True)
class Expected:
    """Published size of a split; ``None`` where nothing was published."""

    rows: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """A row that does not become an utterance, and why."""

    id: str
    reason: str


class Absent(ManifestError):
    """The source does not hold this split."""


@dataclass(frozen=True)
class Corpus:
    """What a module of a corpus defines, in an object: see above.

    Attributes:
        sizes: Split -> its published size.
    """

    NOTE: str
    sizes: Mapping[str, Expected]
    rows: Callable[..., Iterator[Utterance | LeftOut]]
    note: Callable[..., str] | None = None
    MAX_SECONDS: float | None = None

    @property
    def SPLITS(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.sizes)

    def expected(self, split: str, **options: str) -> Expected:
        """Return the published size of a split."""
        return self.sizes[split]


def _corpora() -> dict[str, Corpus]:
    from aista.data.corpora import captions, speech

    return {
        "audiocaps": captions.AUDIOCAPS,
        "clotho": captions.CLOTHO,
        "covost2": speech.COVOST2,
        "gigaspeech": speech.GIGASPEECH,
        "librispeech": speech.LIBRISPEECH,
        "wavcaps": captions.WAVCAPS,
    }


def names() -> list[str]:
    """Return the names of the built-in corpora."""
    return plugins.names(__name__, _FILES, _corpora())


def corpus(name: str) -> Any:
    """Return a corpus by its name, or a third party's module by its dotted name.

    Raises:
        ConfigError: There is no such corpus.
    """
    return plugins.find(__name__, name, kind="corpus", hidden=_FILES, table=_corpora())


@dataclass
class SplitReport:
    """What became of one split; written beside its manifest when everything else is done.

    Attributes:
        manifest: Path of the manifest.
        options: What the corpus was asked for.
        rows, hours: What the manifest holds.
        cropped, segmented: How many rows hold only the beginning of their clip; how many were cut to pieces.
        expected: The published size.
        left_out: Reason -> how many rows.
        examples: Reason -> a few of their ids.
        note: Why counts may differ from the published ones.
    """

    corpus: str
    split: str
    manifest: str
    options: dict[str, Any]
    rows: int = 0
    hours: float = 0.0
    cropped: int = 0
    segmented: int = 0
    expected: Expected = field(default_factory=Expected)
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    note: str = ""

    @property
    def missing(self) -> int:
        """Rows that were published and are not here."""
        return max(0, (self.expected.rows or 0) - self.rows)

    @property
    def missing_hours(self) -> float:
        """Published hours that are not here, where more than 1 % of them are not (they are rounded)."""
        hours = (self.expected.hours or 0.0) - self.hours
        return hours if hours > 0.01 * (self.expected.hours or 0.0) else 0.0

    def leave_out(self, row: LeftOut) -> None:
        """Count a row for its reason, and keep the first few."""
        self.left_out[row.reason] = self.left_out.get(row.reason, 0) + 1
        examples = self.examples.setdefault(row.reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(row.id)


def prepare(
    name: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    splits: Sequence[str] = (),
    limits: Limits = NO_LIMITS,
    workers: int = 4,
    progress: Callable[[str, int], None] | None = None,
    **options: Any,
) -> list[SplitReport]:
    """Write ``OUT/SPLIT.jsonl`` and, last, ``OUT/SPLIT.report.json`` for every split.

    A split whose report and manifest are there is not done again; one that was interrupted goes on with the
    durations that were measured before.

    Args:
        name: A module of ``aista.data.corpora``, or a dotted name.
        source: The folder of the corpus.
        out: The folder of the manifests.
        splits: Which splits; by default every one that the source holds.
        limits: How long clips may be.
        workers: Threads that read file headers.
        progress: Called with the split and the number of rows done since the last call.
        **options: What the corpus needs: ``direction`` for CoVoST 2.

    Raises:
        ConfigError: Unknown corpus, split, or option; ``too_long`` without ``max_seconds``.
        ManifestError: The source holds none of the splits, or broken metadata; a clip is too long and that
            is an error.
    """
    module, source = corpus(name), Path(source).resolve()
    unknown = sorted(set(splits) - set(module.SPLITS))
    if unknown:
        raise ConfigError(f"{name} has no split {', '.join(unknown)}.", expected=", ".join(module.SPLITS))
    if limits.too_long != "skip" and limits.max_seconds is None:
        what = f"Too long for what is an {limits.too_long}?"
        raise ConfigError(what, advice="Name max_seconds too, e.g. 30.")
    limits = replace(limits, max_seconds=limits.max_seconds or getattr(module, "MAX_SECONDS", None))
    asked = {**options, "max_seconds": limits.max_seconds, "crop_seconds": limits.crop_seconds}
    asked |= {} if limits.too_long == "skip" else {"too_long": limits.too_long}
    folder, reports, absent = Path(out), [], []
    for split in splits or module.SPLITS:
        try:
            expected = module.expected(split, **options)
            rows = module.rows(source, split, **options)
        except TypeError as error:
            raise ConfigError(f"{name} cannot be asked this.", got=options, expected=str(error)) from None
        note = getattr(module, "note", None)
        report = SplitReport(
            corpus=name,
            split=split,
            manifest=str(folder / f"{split}.jsonl"),
            options=asked,
            expected=expected,
            note=note(source, split, **options) if note else module.NOTE,
        )
        try:
            if (finished := _finished(report, folder)) is None:
                durations = _Durations(folder / f".{split}.durations.tsv", workers, progress)
                finished = _write(report, rows, limits, durations)
            reports.append(finished)
        except Absent as error:
            if splits:
                raise
            absent.append(error)
    if not reports:
        raise absent[0]
    return reports


def _finished(report: SplitReport, out: Path) -> SplitReport | None:
    """Return the report of a split that was prepared before and is still there."""
    finished = out / f"{report.split}.report.json"
    if not finished.exists() or not Path(report.manifest).exists():
        return None
    held = json.loads(finished.read_text(encoding="utf-8"))
    if held["options"] == report.options and held["corpus"] == report.corpus:
        return SplitReport(**{**held, "expected": Expected(**held["expected"])})
    raise ConfigError(
        f"{out} holds {report.split} prepared otherwise.",
        got=held["options"],
        expected=report.options,
        advice="Choose another folder, or delete that report.",
    )


def _write(
    report: SplitReport, rows: Iterator[Utterance | LeftOut], limits: Limits, durations: _Durations
) -> SplitReport:
    """Write manifest and report of a split."""
    manifest = Path(report.manifest)
    rows = guarded(
        rows,
        f"The metadata of {report.corpus} {report.split}",
        lambda row: row.id,
        "Download it again; is it the release that this corpus module reads?",
    )

    def kept() -> Iterator[Utterance]:
        for row in durations.measured(rows, report.split):
            for each in _limited(row, limits, report):
                report.rows += 1
                report.hours += (each.duration or 0) / 3600
                audio = relative_audio(each.audio or "", manifest.parent)
                yield each.model_copy(update={"audio": audio})

    try:
        write_manifest(manifest, kept())
    finally:
        durations.close()
    if not report.rows:
        manifest.unlink()
        if not report.left_out:
            durations.path.unlink()
            raise Absent(f"The corpus has no row of {report.split} here.", advice="Look at --source.")
        raise ManifestError(
            f"No utterance of {report.split} can be used.",
            got="; ".join(f"{count} x {reason}" for reason, count in report.left_out.items()),
            advice="Is --source the folder that holds the audio?",
        )
    report_file = manifest.with_name(f"{report.split}.report.json")
    write_whole(report_file, json.dumps(asdict(report), ensure_ascii=False, indent=1))
    durations.path.unlink()
    return report


def _limited(row: Utterance | LeftOut, limits: Limits, report: SplitReport) -> Sequence[Utterance]:
    """Return what is used of a measured row under the limits that were asked for; count what is not.

    Raises:
        ManifestError: The row is too long and that is an error.
    """
    if isinstance(row, LeftOut):
        report.leave_out(row)
        return ()
    most, crop, seconds = limits.max_seconds, limits.crop_seconds, row.duration or 0.0
    if most is not None and seconds > most:
        if limits.too_long == "error":
            raise refuse(1, row, seconds, most)
        kept = fit(row, min(most, crop or most), limits.too_long)
        if not kept:
            unknown = "" if limits.too_long == "skip" else ", and nothing says where its words are"
            report.leave_out(LeftOut(row.id, f"longer than {most:g} s{unknown}"))
        report.segmented += bool(kept and row.segments)
        report.cropped += bool(kept and not row.segments)
        return kept
    if crop is not None and seconds > crop:
        report.cropped += 1
        return (row.model_copy(update={"duration": crop}),)
    return (row,)


class _Durations:
    """Measures rows; lengths of audio files by path survive an interruption."""

    def __init__(self, path: Path, workers: int, progress: Callable[[str, int], None] | None) -> None:
        self.path, self.workers, self.progress = path, workers, progress
        self._known: dict[str, float | str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            audio, tab, seconds = line.rpartition("\t")
            if tab and seconds.endswith("s"):
                self._known[audio] = float(seconds[:-1])
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - close() closes it

    def measured(self, rows: Iterator[Utterance | LeftOut], split: str) -> Iterator[Utterance | LeftOut]:
        """Yield every row with the length of its span, or why it cannot be used."""
        with ThreadPoolExecutor(self.workers) as pool:
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                yield from pool.map(self._measured, batch)
                with named(self.path):
                    self._file.flush()
                if self.progress is not None:
                    self.progress(split, len(batch))

    def _measured(self, row: Utterance | LeftOut) -> Utterance | LeftOut:
        if isinstance(row, LeftOut) or row.audio is None:
            return row
        whole = self._known.get(row.audio)
        if whole is None:
            whole = self._known[row.audio] = self._seconds(row.audio)
        if isinstance(whole, str):
            return LeftOut(row.id, whole)
        seconds = row.duration or whole - row.offset
        if seconds <= 0 or row.offset + seconds > whole + SPAN_TOLERANCE_SECONDS:
            return LeftOut(row.id, "the segment ends after its recording")
        return row.model_copy(update={"duration": round(seconds, 4)})

    def _seconds(self, audio: str) -> float | str:
        """Return the length of a file in seconds, or what is wrong with it."""
        try:
            seconds = probe(audio).duration_seconds
        except AudioError:
            return "audio cannot be read" if os.path.exists(audio) else "audio is missing"
        self._file.write(f"{audio}\t{seconds!r}s\n")
        return seconds

    def close(self) -> None:
        with named(self.path):
            self._file.close()
