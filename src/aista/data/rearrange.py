"""New manifests from old ones: split, subset, mix, cut. Deterministic; their audio paths still hold."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from aista.audio.files import probe
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.sampling import rounds, shares
from aista.data.too_long import LengthReport, fit
from aista.errors import ConfigError

By = Literal["id", "audio", "speaker"]


def rebased(manifest: Manifest, utterance: Utterance, folder: str | os.PathLike) -> Utterance:
    """Return the utterance with its audio path relative to another folder; an absolute path stays."""
    if utterance.audio is None or os.path.isabs(utterance.audio):
        return utterance
    path = os.path.relpath(manifest.audio_path(utterance), folder)
    return utterance.model_copy(update={"audio": Path(path).as_posix()})


def split(
    manifest: Manifest,
    parts: dict[str, float],
    out: str | os.PathLike | None = None,
    *,
    by: By = "audio",
    seed: int = 0,
) -> dict[str, Path]:
    """Split a manifest into parts that share no recording (or speaker).

    Args:
        parts: Name -> share; the shares are taken relative to their sum.
        out: Folder for ``NAME.jsonl``; by default beside the manifest as ``STEM.NAME.jsonl``.
        by: What must not be divided: rows of one ``speaker``, of one ``audio`` file, or only of one ``id``.
        seed: Another seed, another split.

    Returns:
        Name -> the written manifest.

    Raises:
        ConfigError: A share is not positive, or rows lack the speaker to split by.
    """
    if not parts or min(parts.values()) <= 0:
        raise ConfigError(
            "A split needs parts with positive shares.", got=parts, expected="e.g. train=0.9 dev=0.1"
        )
    keys = np.fromiter((_hash(_key(row, by), seed) for row in manifest), dtype=np.uint64, count=len(manifest))
    _, which, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    middles = np.cumsum(sizes) - sizes / 2  # of each group, in the random order of its hash
    ends = np.cumsum(list(parts.values())) / sum(parts.values()) * len(manifest)
    part_of_row = np.searchsorted(ends[:-1], middles, side="right")[which]
    written = {}
    for number, name in enumerate(parts):
        path = Path(out) / f"{name}.jsonl" if out else manifest.path.with_suffix(f".{name}.jsonl")
        _write(path, ((manifest, int(index)) for index in np.flatnonzero(part_of_row == number)))
        written[name] = path
    return written


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
        ConfigError: Neither or both of ``count`` and ``hours`` are given, or a row has no duration.
    """
    if (count is None) == (hours is None):
        raise ConfigError("A subset is asked for by count or by hours, one of them.")
    keys = np.fromiter((_hash(row.id, seed) for row in manifest), dtype=np.uint64, count=len(manifest))
    order = np.argsort(keys, kind="stable")
    if hours is not None:
        seconds = np.array([_known_duration(row) for row in manifest])
        count = int(np.searchsorted(np.cumsum(seconds[order]), hours * 3600, side="right"))
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
        ConfigError: Weights and manifests do not fit, or a manifest with a weight is empty.
    """
    if len(weights) != len(manifests) or not weights or min(weights) <= 0 or not all(map(len, manifests)):
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
    return _write(Path(out), ((manifests[chosen[i][0]], chosen[i][1]) for i in order), repeats=True)


def cut(manifest: Manifest, out: str | os.PathLike, *, max_seconds: float) -> LengthReport:
    """Write a manifest of rows no longer than ``max_seconds``, as ``too_long: segment`` trains on them.

    Returns:
        What became of the rows that were too long.

    Raises:
        AudioError: A row has no duration and its file cannot be read.
    """
    report = LengthReport(max_seconds)
    folder = Path(out).parent

    def utterances() -> Iterator[Utterance]:
        for row in manifest:
            seconds = _seconds(manifest, row)
            kept = [row]
            if seconds > max_seconds:
                kept = fit(row, max_seconds, "segment")
                report.note(row, seconds, kept)
            yield from (rebased(manifest, each, folder) for each in kept)

    write_manifest(out, utterances())
    return report


def _seconds(manifest: Manifest, row: Utterance) -> float:
    if row.audio is None:
        return 0.0
    return row.duration or probe(manifest.audio_path(row)).duration_seconds - row.offset


def _write(path: Path, rows: Iterable[tuple[Manifest, int]], repeats: bool = False) -> int:
    """Write rows of manifests; with ``repeats`` an id that stood before is numbered."""

    def utterances() -> Iterator[Utterance]:
        times: Counter[str] = Counter()
        for manifest, index in rows:
            row = rebased(manifest, manifest[index], path.parent)
            if repeats:
                times[row.id] += 1
                if times[row.id] > 1:
                    row = row.model_copy(update={"id": f"{row.id}#{times[row.id]}"})
            yield row

    return write_manifest(path, utterances())


def _key(row: Utterance, by: By) -> str:
    if by == "speaker" and row.speaker is None:
        raise ConfigError(f"Utterance {row.id!r} has no speaker.", advice="Split by 'audio' or 'id'.")
    return {"id": row.id, "audio": row.audio or row.id, "speaker": row.speaker or ""}[by]


def _known_duration(row: Utterance) -> float:
    if row.duration is None and row.audio is not None:
        raise ConfigError(
            f"Utterance {row.id!r} has no duration.", advice="Ask for a count instead of hours."
        )
    return row.duration or 0.0


def _hash(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "big")
