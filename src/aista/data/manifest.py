"""Manifests: JSON lines, one utterance a line, opened at once and parsed only where they are read.

A manifest is a memory map and an array of line starts. 700,000 rows open in a fraction of a second and cost
six megabytes; a row becomes an object when it is asked for.
"""

from __future__ import annotations

import json
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from aista.errors import ManifestError
from aista.files import draft_of

Task = Literal["asr", "aac", "st", "mt"]
Code = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]

_BOM = b"\xef\xbb\xbf"
_NEWLINE = 10
_CHUNK_BYTES = 1 << 24


OVERLAP_SECONDS = 0.25  # what times given by people and aligners may overlap or exceed a span by


class TimedText(BaseModel):
    """What is said in one part of an utterance: where a row that is too long may be cut.

    Attributes:
        offset: Start in seconds, counted from the start of the utterance.
        duration: Length in seconds.
        text, translation: As the utterance's, of this part alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    offset: Annotated[float, Field(ge=0)]
    duration: Annotated[float, Field(gt=0)]
    text: str | None = None
    translation: str | None = None

    @property
    def end(self) -> float:
        """End in seconds, counted from the start of the utterance."""
        return self.offset + self.duration


class Utterance(BaseModel):
    """One row: a span of audio, what is said in it, and what is asked for.

    Attributes:
        id: Its name, unique in the manifest.
        audio: Path of the file, relative to the manifest's folder (or absolute); ``None`` only for ``mt``.
        offset: Start of the span in the file, in seconds.
        duration: Length of the span in seconds; ``None``: to the end of the file, length not known.
        channel: Which channel of the file, counted from 0; ``None``: the mean of all. Where each speaker of a
            recording has a channel, the row has that speaker's own sound.
        src_lang: ISO 639-1 code of what is spoken (``mt``: of ``text``).
        tgt_lang: ISO 639-1 code of ``translation``.
        text: Transcript (``asr``, ``st``), caption (``aac``) or source text (``mt``).
        translation: Text in ``tgt_lang``.
        task: ``asr`` transcription, ``aac`` audio captioning, ``st`` speech translation, ``mt`` text
            translation.
        prompt: An instruction of its own, in place of the task's.
        speaker: Who speaks.
        corpus: Where it is from.
        segments: What is said when, in order. A row longer than a model hears is cut there
            (``too_long: segment``); shorter rows are used whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: Annotated[str, StringConstraints(min_length=1)]
    audio: Annotated[str, StringConstraints(min_length=1)] | None = None
    offset: Annotated[float, Field(ge=0)] = 0.0
    duration: Annotated[float, Field(gt=0)] | None = None
    channel: Annotated[int, Field(ge=0)] | None = None
    src_lang: Code = "en"
    tgt_lang: Code | None = None
    text: str | None = None
    translation: str | None = None
    task: Task = "asr"
    prompt: str | None = None
    speaker: str | None = None
    corpus: str | None = None
    segments: tuple[TimedText, ...] | None = None

    @model_validator(mode="after")
    def _fits_its_task(self) -> Utterance:
        if self.task == "mt":
            if self.audio is not None or self.text is None:
                raise ValueError("a row of task mt has a text to translate and no audio")
        elif self.audio is None:
            raise ValueError(f"a row of task {self.task} needs audio")
        if self.task in ("st", "mt") and self.tgt_lang is None:
            raise ValueError(f"a row of task {self.task} needs tgt_lang")
        return self

    @model_validator(mode="after")
    def _segments_are_parts(self) -> Utterance:
        answer = answer_field(self.task)
        end = 0.0
        for number, part in enumerate(self.segments or (), start=1):
            if getattr(part, answer) is None:
                raise ValueError(f"segment {number} of a row of task {self.task} needs {answer}")
            if part.offset < end - OVERLAP_SECONDS:
                raise ValueError(f"segment {number} starts before the one before it ends")
            end = part.end
        if self.segments is not None and (self.task == "mt" or not self.segments):
            raise ValueError("segments are parts of a sound: at least one, and not for task mt")
        if self.duration is not None and end > self.duration + OVERLAP_SECONDS:
            raise ValueError(f"the segments end at {end:g} s, after the row's duration")
        return self

    @property
    def span(self) -> dict[str, Any]:
        """Which part of its file the utterance is, as ``aista.audio.load_audio`` takes it."""
        return {
            "offset_seconds": self.offset,
            "duration_seconds": self.duration,
            "channel": self.channel,
        }

    @property
    def target(self) -> str:
        """What the model should answer: ``text`` for asr and aac, ``translation`` for st and mt.

        Raises:
            ManifestError: The row does not hold it (an utterance still to be transcribed or translated).
        """
        field = answer_field(self.task)
        answer = getattr(self, field)
        if answer is None:
            raise ManifestError(
                f"Utterance {self.id!r} has no {field}.",
                advice=f"A row of task {self.task} is trained on it.",
            )
        return answer

    @property
    def answer_lang(self) -> str:
        """ISO code of the language the answer is in."""
        if self.task in ("st", "mt") and self.tgt_lang is not None:
            return self.tgt_lang
        return self.src_lang


def answer_field(task: str | None) -> str:
    """Return which field of a row holds what the model should answer; no task counts as ``asr``."""
    return "translation" if task in ("st", "mt") else "text"


class KeyTwiceError(ValueError):
    """An object has one key twice: nobody knows which value was meant."""


def keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dictionary; for ``object_pairs_hook``.

    Raises:
        KeyTwiceError: A key stands twice.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyTwiceError(", ".join(sorted({name for name in names if names.count(name) > 1})))
    return row


class Manifest(Sequence[Utterance]):
    """A file of utterances, read lazily; safe to share with worker processes.

    Args:
        path: A ``.jsonl`` file in UTF-8. A byte-order mark, CRLF and blank lines are tolerated.

    Attributes:
        folder: The real folder that the file lies in: relative audio paths start there, also where a symbolic
            link leads to it.

    Raises:
        ManifestError: The file is missing or not a file. A bad row raises when it is read, as file:line.

    Cost:
        Opening reads the file once at memory speed; 8 bytes per row stay.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.folder = os.path.realpath(self.path.parent)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except FileNotFoundError:
            raise ManifestError(f"{self.path}: no such manifest.", advice="Check the path.") from None
        except OSError as error:
            raise ManifestError(f"{self.path}: cannot be read.", got=error.strerror) from None
        self._starts = starts = _line_starts(self._bytes)
        short = np.flatnonzero(np.diff(starts) < 20)  # no utterance is that short, but a blank line may be
        blank = [line for line in short if not self._bytes[starts[line] : starts[line + 1]].strip()]
        self._rows = np.delete(np.arange(len(starts) - 1), blank)  # numbers of the lines that hold something

    def __reduce__(self) -> tuple[type[Manifest], tuple[Path]]:
        return Manifest, (self.path,)

    def __repr__(self) -> str:
        return f"Manifest({str(self.path)!r}, {len(self):,} rows)"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        """Return the utterance at an index (a slice gives a list).

        Raises:
            ManifestError: The row is no valid utterance; the message says ``file:line``.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            row = Utterance.model_validate_json(self.raw(index))
            json.loads(self.raw(index), object_pairs_hook=keys_once)
            return row
        except KeyTwiceError as error:
            raise ManifestError(f"{self.where(index)}: a key stands twice.", got=error) from None
        except ValidationError as error:
            raise ManifestError(
                f"{self.where(index)}: not a valid utterance.",
                got="; ".join(complaints(error)),
                expected="keys " + ", ".join(Utterance.model_fields),
                advice="Correct the row, or see all bad rows with: aista data check " + str(self.path),
            ) from None

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def raw(self, index: int) -> bytes:
        """Return the bytes of a row, without its line end."""
        line = int(self._rows[index])
        return self._bytes[self._starts[line] : self._starts[line + 1]].rstrip(b"\r\n")

    def where(self, index: int) -> str:
        """Return ``file:line`` of a row, lines counted from 1 as editors do."""
        return f"{self.path}:{int(self._rows[index]) + 1}"

    def audio_path(self, utterance: Utterance) -> Path:
        """Return the absolute path of an utterance's audio.

        Raises:
            ManifestError: The utterance has no audio.
        """
        if utterance.audio is None:
            raise ManifestError(f"Utterance {utterance.id!r} has no audio.", got=f"task {utterance.task}")
        return Path(os.path.normpath(os.path.join(self.folder, utterance.audio)))


def relative_audio(path: str | os.PathLike, folder: str | os.PathLike) -> str:
    """Return an absolute audio path as a manifest in this folder names it: relative to the real folder."""
    return Path(os.path.relpath(path, os.path.realpath(folder))).as_posix()


def refuse_overwriting(outputs: Iterable[Path], sources: Iterable[Path]) -> None:
    """Refuse to write what would take the place of a file that is read.

    Raises:
        ManifestError: One of the outputs is one of the sources, by this name or another.
    """
    read = {file: path for path in sources if (file := _identity(path)) is not None}
    for output in outputs:
        if (file := _identity(output)) in read:
            raise ManifestError(
                f"{output} would overwrite what it is made from.",
                got=f"{read[file]} as a source",
                expected="another file or folder",
                advice="Choose another --out, or another name of the part.",
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all names of one file; None where there is none."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino


def write_manifest(path: str | os.PathLike, utterances: Iterable[Utterance]) -> int:
    """Write utterances, one a line, leaving out what is at its default; the file appears whole or not at all.

    Returns:
        The number of rows written.
    """
    count = 0
    with draft_of(Path(path)) as draft, open(draft, "w", encoding="utf-8", newline="\n") as file:
        for count, utterance in enumerate(utterances, start=1):  # noqa: B007
            file.write(to_line(utterance) + "\n")
    return count


def numbered(utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Yield utterances, an id that stood before with the next free ``#2``, ``#3`` ... at its end."""
    times: Counter[str] = Counter()
    taken: set[str] = set()
    for row in utterances:
        name = row.id
        while name in taken:
            times[row.id] += 1
            name = f"{row.id}#{times[row.id] + 1}"
        taken.add(name)
        yield row if name == row.id else row.model_copy(update={"id": name})


def to_line(utterance: Utterance) -> str:
    """Return the JSON of one row: the task always, else only what is not at its default."""
    row = utterance.model_dump(mode="json", exclude_defaults=True) | {"task": utterance.task}
    return json.dumps(row, ensure_ascii=False)


def _line_starts(data: mmap.mmap | bytes) -> np.ndarray:
    """Return where each line starts, plus the end of the file. int64 (lines + 1,)."""
    size = len(data)
    view = np.frombuffer(data, dtype=np.uint8)
    newlines = [
        np.flatnonzero(view[start : start + _CHUNK_BYTES] == _NEWLINE) + start
        for start in range(0, size, _CHUNK_BYTES)
    ]
    head = len(_BOM) if data[: len(_BOM)] == _BOM else 0
    starts = np.concatenate([[head], *(found + 1 for found in newlines)]).astype(np.int64)
    return starts if starts[-1] == size else np.append(starts, size)


def complaints(error: ValidationError) -> list[str]:
    """Return what pydantic says, shortly: ``duration: Input should be greater than 0``."""
    complaints = []
    for problem in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        complaints.append(f"{place}: {message}" if place else message)
    return complaints
