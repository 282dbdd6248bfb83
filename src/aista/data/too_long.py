"""Rows longer than a model hears: refused, left out, or cut where their manifest says what is said when.

Cutting a sound at its pauses is right for translating it (:mod:`aista.audio.speech`), and wrong for
training on it: nobody knows which words of the transcript belong to which piece. So a row is cut only at the
times its ``segments`` give. A caption describes a whole sound, of which a model hears the beginning, as
SALMONN does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from aista.data.manifest import TimedText, Utterance
from aista.errors import ConfigError, ManifestError
from aista.text.prompts import joined

TooLong = Literal["error", "skip", "segment"]
"""What becomes of a row that is too long: see :func:`fit`."""


@dataclass(frozen=True)
class Limits:
    """How long the clips of a corpus may be.

    Attributes:
        max_seconds: The longest clip; None: what the corpus says (WavCaps: 180).
        too_long: What becomes of longer ones: left out and counted (``skip``), an ``error``, or used as far
            as is honest (``segment``): captioned sounds from their beginning.
        crop_seconds: Use no more than so much of each clip's beginning (SALMONN hears 30 s of a longer
            sound); the manifest says so in ``duration``.

    Raises:
        ConfigError: A length is not positive.
    """

    max_seconds: float | None = None
    too_long: TooLong = "skip"
    crop_seconds: float | None = None

    def __post_init__(self) -> None:
        must_be_positive(max_seconds=self.max_seconds, crop_seconds=self.crop_seconds)


def must_be_positive(**numbers: float | None) -> None:
    """Refuse a number that is zero, negative, infinite or none at all; ``None`` passes.

    Raises:
        ConfigError: One is; the message names it.
    """
    for name, number in numbers.items():
        if number is not None and not 0 < number < float("inf"):
            raise ConfigError(f"{name} is out of range.", got=number, expected="a positive number")


NO_LIMITS = Limits()


@dataclass
class LengthReport:
    """What became of the rows that were too long.

    Attributes:
        max_seconds: The longest row that was taken as it is.
        skipped, cropped, segmented: How many rows were left out, shortened to their beginning, and cut.
        pieces: How many rows came of those that were cut.
        seconds_lost: Sound of these rows that is in no row now.
        examples: The first row of each fate.
    """

    max_seconds: float
    skipped: int = 0
    cropped: int = 0
    segmented: int = 0
    pieces: int = 0
    seconds_lost: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, row: Utterance, seconds: float, kept: Sequence[Utterance]) -> None:
        """Count a row that was too long and what is left of it."""
        fate = "skipped" if not kept else "segmented" if row.segments else "cropped"
        setattr(self, fate, getattr(self, fate) + 1)
        self.pieces += len(kept) if row.segments else 0
        self.seconds_lost += max(0.0, seconds - sum(piece.duration or 0.0 for piece in kept))
        self.examples.setdefault(fate, f"{row.id!r}: {seconds:.1f} s")

    def __bool__(self) -> bool:
        return bool(self.examples)

    def sentences(self) -> list[str]:
        """Say it: one sentence per fate that occurred."""
        limit = f"longer than {self.max_seconds:g} s"
        told = {
            "skipped": f"{self.skipped:,} clips {limit} are skipped",
            "cropped": f"{self.cropped:,} captioned sounds {limit} are cut to their beginning",
            "segmented": f"{self.segmented:,} clips {limit} are cut into {self.pieces:,} at their segments",
        }
        return [f"{told[fate]}, e.g. {example}." for fate, example in self.examples.items()]


def fit(utterance: Utterance, max_seconds: float, too_long: TooLong) -> list[Utterance]:
    """Return what a model that hears ``max_seconds`` can be trained on of a row that is longer.

    Args:
        too_long: ``skip`` leaves the row out, and so does ``error`` (see :func:`refuse`). ``segment`` cuts a
            row with ``segments`` into as few pieces as possible, each of neighbouring segments with what is
            said in them (a segment that is itself too long is left out); a caption (``aac``) without them
            keeps the beginning of its sound; any other row is left out, as nothing says where its words are.

    Returns:
        No, one or several utterances, none longer than ``max_seconds``; pieces are called ``ID/1``, ``ID/2``.
    """
    if too_long != "segment":
        return []
    if utterance.segments:
        groups = _grouped(utterance.segments, max_seconds)
        return [_piece(utterance, group, number) for number, group in enumerate(groups, start=1)]
    if utterance.task == "aac":
        return [utterance.model_copy(update={"duration": max_seconds})]
    return []


def refuse(count: int, example: Utterance, seconds: float, max_seconds: float) -> ManifestError:
    """Return the error for rows that are too long where ``too_long`` is ``error``."""
    return ManifestError(
        f"{count:,} clips are too long.",
        got=f"e.g. {example.id!r}: {seconds:.1f} s",
        expected=f"at most {max_seconds:g} s",
        advice="Set too_long to 'skip', or to 'segment' to cut them where their segments say what is said.",
    )


def _grouped(segments: Sequence[TimedText], max_seconds: float) -> list[list[TimedText]]:
    """Put neighbours together while they last at most ``max_seconds``, pauses between them included."""
    groups: list[list[TimedText]] = []
    fits_before = False
    for part in segments:
        fits = part.duration <= max_seconds
        if fits and fits_before and part.end - groups[-1][0].offset <= max_seconds:
            groups[-1].append(part)
        elif fits:
            groups.append([part])
        fits_before = fits
    return groups


def _piece(utterance: Utterance, parts: Sequence[TimedText], number: int) -> Utterance:
    """Return the utterance of some neighbouring segments."""
    start = parts[0].offset

    def whole(texts: Sequence[str | None], code: str | None) -> str | None:
        known = [text.strip() for text in texts if text is not None]
        return joined(known, code) if len(known) == len(texts) else None

    return utterance.model_copy(
        update={
            "id": f"{utterance.id}/{number}",
            "offset": round(utterance.offset + start, 6),
            "duration": round(parts[-1].end - start, 6),
            "text": whole([part.text for part in parts], utterance.src_lang),
            "translation": whole([part.translation for part in parts], utterance.tgt_lang),
            "segments": None,
        }
    )
