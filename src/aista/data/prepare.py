"""From a corpus as it is downloaded to manifests: measured, resumable, nothing dropped in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from aista.audio.files import SPAN_TOLERANCE_SECONDS, probe
from aista.data.corpora import Absent, Expected, LeftOut, corpus
from aista.data.manifest import Utterance, write_manifest
from aista.data.text_files import guarded
from aista.data.too_long import NO_LIMITS, Limits, fit, refuse
from aista.errors import AudioError, ConfigError, ManifestError
from aista.files import write_whole

_ROWS_AT_ONCE = 1024
_EXAMPLES = 5


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

    A split whose report is there is not done again; one that was interrupted goes on with the durations that
    were measured before.

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
    module = corpus(name)
    unknown = sorted(set(splits) - set(module.SPLITS))
    if unknown:
        raise ConfigError(f"{name} has no split {', '.join(unknown)}.", expected=", ".join(module.SPLITS))
    if limits.too_long != "skip" and limits.max_seconds is None:
        what = f"Too long for what is an {limits.too_long}?"
        raise ConfigError(what, advice="Name max_seconds too, e.g. 30.")
    asked: dict[str, Any] = {
        **options,
        "max_seconds": limits.max_seconds or getattr(module, "MAX_SECONDS", None),
        "crop_seconds": limits.crop_seconds,
    } | ({} if limits.too_long == "skip" else {"too_long": limits.too_long})
    reports, absent = [], []
    for split in splits or module.SPLITS:
        try:
            expected = module.expected(split, **options)
            rows = module.rows(Path(source), split, **options)
        except TypeError as error:
            raise ConfigError(f"{name} cannot be asked this.", got=options, expected=str(error)) from None
        manifest = str(Path(out) / f"{split}.jsonl")
        note = module.note(Path(source), split, **options) if hasattr(module, "note") else module.NOTE
        report = SplitReport(name, split, manifest, asked, expected=expected, note=note)
        try:
            reports.append(_prepare_split(report, rows, Path(out), workers, progress))
        except Absent as error:
            if splits:
                raise
            absent.append(error)
    if not reports:
        raise absent[0]
    return reports


def _prepare_split(
    report: SplitReport,
    rows: Iterator[Utterance | LeftOut],
    out: Path,
    workers: int,
    progress: Callable[[str, int], None] | None,
) -> SplitReport:
    finished = out / f"{report.split}.report.json"
    if finished.exists():
        held = json.loads(finished.read_text(encoding="utf-8"))
        if held["options"] == report.options and held["corpus"] == report.corpus:
            return SplitReport(**{**held, "expected": Expected(**held["expected"])})
        raise ConfigError(
            f"{out} holds {report.split} prepared otherwise.",
            got=held["options"],
            expected=report.options,
            advice="Choose another folder, or delete that report.",
        )
    out.mkdir(parents=True, exist_ok=True)
    durations = _Durations(out / f".{report.split}.durations.tsv")
    try:
        write_manifest(report.manifest, _kept(report, rows, out, durations, workers, progress))
    finally:
        durations.close()
    if not report.rows:
        Path(report.manifest).unlink()
        if not report.left_out:
            durations.path.unlink()
            raise Absent(f"The corpus has no row of {report.split} here.", advice="Look at --source.")
        raise ManifestError(
            f"No utterance of {report.split} can be used.",
            got="; ".join(f"{count} x {reason}" for reason, count in report.left_out.items()) or "no rows",
            advice="Is --source the folder that holds the audio?",
        )
    write_whole(finished, json.dumps(asdict(report), ensure_ascii=False, indent=1))
    durations.path.unlink()
    return report


def _kept(
    report: SplitReport,
    rows: Iterator[Utterance | LeftOut],
    out: Path,
    durations: _Durations,
    workers: int,
    progress: Callable[[str, int], None] | None,
) -> Iterator[Utterance]:
    """Yield the rows that can be used, measured, with paths relative to the manifest; count all."""
    rows = guarded(
        rows,
        f"The metadata of {report.corpus} {report.split}",
        lambda row: row.id,
        "Download it again; is it the release that this corpus module reads?",
    )
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            for row in pool.map(lambda row: _measured(row, durations), batch):
                for kept in _limited(row, report):
                    report.rows += 1
                    report.hours += (kept.duration or 0) / 3600
                    path = Path(os.path.relpath(kept.audio or "", out)).as_posix()
                    yield kept.model_copy(update={"audio": path})
            durations.flush()
            if progress is not None:
                progress(report.split, len(batch))


def _measured(row: Utterance | LeftOut, durations: _Durations) -> Utterance | LeftOut:
    """Return the row with the length of its span, or why it cannot be used."""
    if isinstance(row, LeftOut) or row.audio is None:
        return row
    whole = durations.seconds(row.audio)
    if isinstance(whole, str):
        return LeftOut(row.id, whole)
    seconds = row.duration or whole - row.offset
    if seconds <= 0 or row.offset + seconds > whole + SPAN_TOLERANCE_SECONDS:
        return LeftOut(row.id, "the segment ends after its recording")
    return row.model_copy(update={"duration": round(seconds, 4)})


def _limited(row: Utterance | LeftOut, report: SplitReport) -> Sequence[Utterance]:
    """Return what is used of a measured row under the limits that were asked for; count what is not.

    Raises:
        ManifestError: The row is too long and that is an error.
    """
    if isinstance(row, LeftOut):
        report.leave_out(row)
        return ()
    most, crop = report.options["max_seconds"], report.options["crop_seconds"]
    too_long, seconds = report.options.get("too_long", "skip"), row.duration or 0.0
    kept: Sequence[Utterance] = (row,)
    if most is not None and seconds > most:
        if too_long == "error":
            raise refuse(1, row, seconds, most)
        kept = fit(row, most, too_long)
        if not kept:
            unknown = "" if too_long == "skip" else ", and nothing says where its words are"
            report.leave_out(LeftOut(row.id, f"longer than {most:g} s{unknown}"))
        report.segmented += bool(kept and row.segments)
        report.cropped += bool(kept and not row.segments)
    elif crop is not None and seconds > crop:
        kept = (row.model_copy(update={"duration": crop}),)
        report.cropped += 1
    return kept


class _Durations:
    """Lengths of audio files by path; what was measured survives an interruption."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, float | str] = {}
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            audio, tab, seconds = line.rpartition("\t")
            if tab and seconds.endswith("s"):
                self._known[audio] = float(seconds[:-1])
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - close() closes it

    def seconds(self, audio: str) -> float | str:
        """Return the length of a file in seconds, or what is wrong with it."""
        known = self._known.get(audio)
        if known is None:
            known = self._known[audio] = self._measure(audio)
        return known

    def _measure(self, audio: str) -> float | str:
        try:
            seconds = probe(audio).duration_seconds
        except AudioError:
            return "audio cannot be read" if os.path.exists(audio) else "audio is missing"
        self._file.write(f"{audio}\t{seconds!r}s\n")
        return seconds

    def flush(self) -> None:
        with self._named():
            self._file.flush()

    def close(self) -> None:
        with self._named():
            self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file where a disk refuses: a write that waited in memory does not know it."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
