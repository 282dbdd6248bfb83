"""New manifests from old ones: split, subset, mix, cut, and packed into tar shards. Deterministic.

Audio paths of a new manifest still hold. Shards are for clusters: sounds cut out as FLAC at 16 kHz, a
thousand to a file, each with its row as JSON; small files are what shared file systems are worst at. Beside
the shards lies a manifest whose paths lead into them (``st-000003.tar/000017.flac``): training, checks and
evaluation take it as any other, and read the clips by random access. The manifest is the only index, and its
paths are paths: nothing in them is a command or an address (docs/decisions/shards.md).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from aista.audio.archives import archive_of
from aista.audio.files import load_audio, probe
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.manifest import (
    OVERLAP_SECONDS,
    Manifest,
    Utterance,
    numbered,
    refuse_overwriting,
    relative_audio,
    to_line,
    write_manifest,
)
from aista.data.recordings import same_recordings
from aista.data.sampling import rounds, shares
from aista.data.too_long import LengthReport, fit, must_be_positive
from aista.errors import AudioError, ConfigError, ManifestError
from aista.files import draft_of

logger = logging.getLogger(__name__)

By = Literal["id", "audio", "speaker"]


def rebased(manifest: Manifest, utterance: Utterance, folder: str | os.PathLike) -> Utterance:
    """Return the utterance with its audio path relative to another folder; an absolute path stays."""
    if utterance.audio is None or os.path.isabs(utterance.audio):
        return utterance
    audio = relative_audio(manifest.audio_path(utterance), folder)
    return utterance.model_copy(update={"audio": audio})


def split(
    manifests: Manifest | Sequence[Manifest],
    parts: dict[str, float],
    out: str | os.PathLike | None = None,
    *,
    by: By = "audio",
    seed: int = 0,
) -> dict[str, Path]:
    """Split manifests into parts that share no recording (or speaker).

    Several manifests (one to transcribe, one to translate) are split by one rule: what is in one part of one
    is in the same part of every other. A recording is known by what its file is, however its path is spelled
    (:func:`aista.data.recordings.same_recordings`).

    Args:
        parts: Name -> share; the shares are taken relative to their sum. Every part gets at least one
            recording (or speaker).
        out: Folder of the parts; by default beside each manifest.
        by: What must not be divided: rows of one ``speaker``, of one ``audio`` file, or only of one ``id``.
        seed: Another seed, another split.

    Returns:
        Name -> the written manifest; of several manifests ``STEM.NAME`` -> the written manifest. One manifest
        in a folder of its own is called ``NAME.jsonl``, otherwise ``STEM.NAME.jsonl``.

    Raises:
        ConfigError: A share is not positive, rows lack the speaker to split by, two parts would be one file,
            or there are fewer recordings (or speakers) than parts.
        ManifestError: A part would overwrite one of the manifests.
    """
    manifests = [manifests] if isinstance(manifests, Manifest) else list(manifests)
    if not parts or not all(0 < share < float("inf") for share in parts.values()):
        raise ConfigError(
            "A split needs parts with positive shares.", got=parts, expected="e.g. train=0.9 dev=0.1"
        )
    stems = [manifest.path.with_suffix("").name for manifest in manifests]
    alone = out is not None and len(manifests) == 1
    files = [
        [Path(out or manifest.path.parent, f"{name if alone else f'{stem}.{name}'}.jsonl") for name in parts]
        for manifest, stem in zip(manifests, stems, strict=True)
    ]
    paths = [path for group in files for path in group]
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise ConfigError(
            "Two parts would be written to one file.",
            got=", ".join(str(manifest.path) for manifest in manifests),
            expected="manifests of different names",
            advice="Rename one of them, or split them into different folders.",
        )
    refuse_overwriting(paths, [manifest.path for manifest in manifests])
    keys = np.fromiter((_hash(key, seed) for key in _keys(manifests, by)), dtype=np.uint64)
    part_of_row = _parts(keys, list(parts.values()), by)
    written, start = {}, 0
    for manifest, stem, group in zip(manifests, stems, files, strict=True):
        which = part_of_row[start : start + len(manifest)]
        start += len(manifest)
        for number, (name, path) in enumerate(zip(parts, group, strict=True)):
            _write(path, ((manifest, int(index)) for index in np.flatnonzero(which == number)))
            named = stem if stems.count(stem) == 1 else manifest.path.with_suffix("").as_posix()
            written[name if len(manifests) == 1 else f"{named}.{name}"] = path
    return written


def _keys(manifests: Sequence[Manifest], by: By) -> list[str]:
    """Return, of every row, the name of the group that must not be divided."""
    rows = [(manifest, row) for manifest in manifests for row in manifest]
    if by == "id":
        return [row.id for _, row in rows]
    if by == "speaker":
        if without := next((row for _, row in rows if row.speaker is None), None):
            raise ConfigError(f"Utterance {without.id!r} has no speaker.", advice="Split by 'audio' or 'id'.")
        return [row.speaker or "" for _, row in rows]
    paths = [row.audio and str(manifest.audio_path(row)) for manifest, row in rows]
    same = same_recordings(path for path in paths if path)
    first: dict[str, str] = {}  # the name of a recording in the first row that has it
    for path, (_, row) in zip(paths, rows, strict=True):
        if path:
            first.setdefault(same[path], str(row.audio))
    return [first[same[path]] if path else row.id for path, (_, row) in zip(paths, rows, strict=True)]


def _parts(keys: np.ndarray, weights: list[float], by: By) -> np.ndarray:
    """Return the part of every row: groups by their hashes, shares as near as can be."""
    _, which, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    if len(sizes) < len(weights):
        raise ConfigError(
            f"There are fewer groups than parts to split by {by}.",
            got=f"{len(sizes)} for {len(weights)} parts",
            advice="Split into fewer parts, or by 'audio'.",
        )
    middles = np.cumsum(sizes) - sizes / 2  # of each group, in the random order of its hash
    ends = np.cumsum(weights) / sum(weights) * len(keys)
    part = np.searchsorted(ends[:-1], middles, side="right")
    # Every part begins no later than leaves a group to each part after it, and has one itself.
    firsts = np.searchsorted(part, np.arange(len(weights)))
    for number in range(1, len(weights)):
        firsts[number] = max(firsts[number], firsts[number - 1] + 1)
    for number in range(len(weights) - 1, 0, -1):
        firsts[number] = min(firsts[number], len(sizes) - (len(weights) - number))
    part = np.searchsorted(firsts, np.arange(len(sizes)), side="right") - 1
    return part[which]


def subset(
    manifest: Manifest,
    out: str | os.PathLike,
    *,
    count: int | None = None,
    hours: float | None = None,
    seed: int = 0,
) -> int:
    """Write a random subset, rows in their old order; a smaller subset of a seed lies within a larger one.

    Args:
        count: How many rows; or
        hours: How much audio: rows are taken until the next one would exceed it.

    Returns:
        The number of rows written.

    Raises:
        ConfigError: Neither or both of ``count`` and ``hours`` are given, one is not positive, or a row has
            no duration.
        ManifestError: ``out`` is the manifest itself.
    """
    if (count is None) == (hours is None):
        raise ConfigError("A subset is asked for by count or by hours, one of them.")
    must_be_positive(count=count, hours=hours)
    keys = np.fromiter((_hash(row.id, seed) for row in manifest), dtype=np.uint64, count=len(manifest))
    order = np.argsort(keys, kind="stable")
    if hours is not None:
        if unknown := next((row for row in manifest if row.duration is None and row.audio is not None), None):
            raise ConfigError(
                f"Utterance {unknown.id!r} has no duration.",
                advice="Ask for a count instead of hours; `aista data import` writes durations.",
            )
        seconds = np.array([row.duration or 0.0 for row in manifest])
        count = int(np.searchsorted(np.cumsum(seconds[order]), hours * 3600, side="right"))
    refuse_overwriting([Path(out)], [manifest.path])
    return _write(Path(out), ((manifest, int(index)) for index in np.sort(order[:count])))


def mix(
    manifests: Sequence[Manifest],
    weights: Sequence[float],
    out: str | os.PathLike,
    *,
    count: int | None = None,
    seed: int = 0,
) -> int:
    """Write a shuffled mixture in which each manifest has its share of the rows.

    A manifest that is too small for its share is gone through again; an id that was there before gets ``#2``,
    ``#3`` ... at its end. (For training, ``LengthGroupedSampler`` does the same without writing anything.)

    Args:
        weights: Share of each manifest, relative to their sum.
        count: Rows of the mixture; by default as many as all manifests hold together.

    Returns:
        The number of rows written.

    Raises:
        ConfigError: Weights and manifests do not fit, ``count`` is not positive, or a manifest with a weight
            is empty.
        ManifestError: ``out`` is one of the manifests.
    """
    must_be_positive(count=count)
    positive = all(0 < weight < float("inf") for weight in weights)
    if len(weights) != len(manifests) or not weights or not positive or not all(map(len, manifests)):
        raise ConfigError(
            "A mixture needs manifests with rows and a positive weight for each.",
            got=f"{[len(m) for m in manifests]} rows, weights {list(weights)}",
        )
    total = sum(map(len, manifests)) if count is None else count
    counts = shares({str(i): weight for i, weight in enumerate(weights)}, total)
    chosen = [
        (int(which), int(row))
        for which, number in counts.items()
        for row in rounds(np.arange(len(manifests[int(which)])), 0, number, [seed, int(which)])
    ]
    order = np.random.default_rng(seed).permutation(len(chosen))
    refuse_overwriting([Path(out)], [manifest.path for manifest in manifests])
    return _write(Path(out), ((manifests[chosen[i][0]], chosen[i][1]) for i in order), repeats=True)


def cut(manifest: Manifest, out: str | os.PathLike, *, max_seconds: float) -> LengthReport:
    """Write a manifest of rows no longer than ``max_seconds``, as ``too_long: segment`` trains on them.

    Returns:
        What became of the rows that were too long.

    Raises:
        AudioError: A row has no duration and its file cannot be read.
        ConfigError: ``max_seconds`` is not positive.
        ManifestError: A row's segments go on after its file ends, or ``out`` is the manifest itself.
    """
    must_be_positive(max_seconds=max_seconds)
    report = LengthReport(max_seconds)
    folder = Path(out).parent
    refuse_overwriting([Path(out)], [manifest.path])

    def utterances() -> Iterator[Utterance]:
        for row in manifest:
            seconds, kept = row.duration or 0.0, [row]
            if row.audio is not None and not seconds:
                seconds = probe(manifest.audio_path(row)).duration_seconds - row.offset
            if seconds > max_seconds:
                kept = fit(row, max_seconds, "segment")
                _must_be_inside(manifest, row, kept)
                report.note(row, seconds, kept)
            yield from (rebased(manifest, each, folder) for each in kept)

    write_manifest(out, numbered(utterances()))
    return report


def _must_be_inside(manifest: Manifest, row: Utterance, kept: Sequence[Utterance]) -> None:
    """Refuse pieces, cut at the segments of a row, that go on after its file."""
    end = max((piece.offset + (piece.duration or 0.0) for piece in kept), default=0.0)
    if not row.segments or not kept:
        return
    try:
        whole = probe(manifest.audio_path(row)).duration_seconds
    except AudioError:
        return  # the row says how long it is; whether its file is there, `aista data check` says
    if end > whole + OVERLAP_SECONDS:
        raise ManifestError(
            f"Utterance {row.id!r}: its segments go on after its sound.",
            got=f"a segment ends at {end:g} s, the file at {whole:.2f} s",
            advice="Are the times those of another cut? See all such rows with: aista data check",
        )


def _write(path: Path, rows: Iterable[tuple[Manifest, int]], repeats: bool = False) -> int:
    """Write rows of manifests; with ``repeats`` an id that stood before is numbered."""

    def utterances() -> Iterator[Utterance]:
        for manifest, index in rows:
            yield rebased(manifest, manifest[index], path.parent)

    return write_manifest(path, numbered(utterances()) if repeats else utterances())


def _hash(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "big")


def write_shards(
    manifest: Manifest, out: str | os.PathLike, *, rows_per_shard: int = 1000, seed: int | None = 0
) -> list[Path]:
    """Write the rows of a manifest into shards, and beside them, last, a manifest of the same name.

    Args:
        out: Folder of the shards.
        rows_per_shard: About 100 MB at 1,000 rows of six seconds.
        seed: Shuffles the rows first, so that neighbours in a shard are no neighbours in the corpus; ``None``
            keeps their order.

    Returns:
        The shards.

    Raises:
        AudioError: A clip cannot be read: check the manifest first.
        ManifestError: A row has no audio, or the manifest itself, or shards that it leads into, would be
            overwritten.
    """
    if text := next((row for row in manifest if row.audio is None), None):
        raise ManifestError(
            f"Utterance {text.id!r} has no audio: shards hold sounds.",
            advice="Keep rows of text (task mt) in a manifest of their own.",
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    name = manifest.path.name
    order = np.arange(len(manifest))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(manifest))
    starts = range(0, len(order), rows_per_shard)
    shards = [folder / f"{manifest.path.stem}-{number:06d}.tar" for number in range(len(starts))]
    archives = {archive_of(manifest.audio_path(row)) for row in manifest}
    read = [manifest.path, *(archive for archive in archives if archive is not None)]
    refuse_overwriting([folder / name, *shards], read)

    def utterances() -> Iterator[Utterance]:
        for start, shard in zip(starts, shards, strict=True):
            with draft_of(shard) as draft, tarfile.open(draft, "w") as tar:  # whole, or not at all
                held = [
                    _add(tar, f"{number:06d}", manifest, manifest[int(index)])
                    for number, index in enumerate(order[start : start + rows_per_shard])
                ]
            yield from (row.model_copy(update={"audio": f"{shard.name}/{row.audio}"}) for row in held)

    write_manifest(folder / name, utterances())
    return shards


def _add(tar: tarfile.TarFile, key: str, manifest: Manifest, row: Utterance) -> Utterance:
    """Put a row and its sound into a shard; return the row, its audio named as inside it."""
    samples = load_audio(manifest.audio_path(row), **row.span)
    peak = float(np.abs(samples).max())
    if peak > 1.0:  # FLAC would clip it
        logger.warning("Clip %s goes beyond full scale: divided by its peak, %.3f.", row.id, peak)
        samples = samples / peak
    sound = io.BytesIO()
    soundfile.write(sound, samples, SAMPLE_RATE_HZ, format="FLAC")
    duration = round(len(samples) / SAMPLE_RATE_HZ, 6)
    held = row.model_copy(
        update={"audio": f"{key}.flac", "offset": 0.0, "duration": duration, "channel": None}
    )
    for suffix, data in (("flac", sound.getvalue()), ("json", to_line(held).encode())):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return held
