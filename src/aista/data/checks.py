"""Everything that can be wrong with a manifest, found before a GPU hour is spent on it."""

from __future__ import annotations

import itertools
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from aista.audio.files import AudioInfo, probe, read_audio
from aista.audio.rates import MAX_SECONDS, SAMPLE_RATE_HZ
from aista.audio.signal import is_silent
from aista.data.manifest import Manifest, Utterance
from aista.errors import AudioError, ManifestError
from aista.text.normalize import is_blank, same_apostrophes, without_invisible
from aista.text.prompts import LANGUAGES, chinese_form, script_complaint

Severity = Literal["error", "warning"]

# kind -> (severity, what it means)
KINDS: dict[str, tuple[Severity, str]] = {
    "no rows": ("error", "holds no row"),
    "bad row": ("error", "is no valid utterance"),
    "duplicate id": ("error", "has the id of an earlier row"),
    "unreadable audio": (
        "error",
        "the audio is missing, empty, corrupt, shorter than the span or the segments, or lacks the channel",
    ),
    "no target": ("error", "lacks the text that its task is trained on"),
    "no transcript": ("warning", "lacks the transcript that alignment and the choice of layers need"),
    "unknown language": ("error", "names a language that no prompt can name"),
    "duration mismatch": ("warning", "the file is longer or shorter than the row says"),
    "no duration": ("warning", "has no duration: its length has to be read from the file each time"),
    "long audio": (
        "warning",
        f"is longer than the {MAX_SECONDS} s a model hears at once, and has no segments to cut it at",
    ),
    "short audio": ("warning", "is shorter than 0.1 s"),
    "silent audio": ("warning", "nothing in it reaches -60 dBFS"),
    "odd audio": ("warning", "has a DC offset, channels that cancel, no end, or a header that is not true"),
    "clipped audio": ("warning", "more than 0.1 % of its samples are at full scale"),
    "empty text": ("warning", "has a text that holds nothing"),
    "odd text": (
        "warning",
        "has a text with tags, control or invisible characters, odd apostrophes, or in capitals only",
    ),
    "odd language": ("warning", "has a text in the script of another language"),
    "mixed Chinese": (
        "warning",
        "mixes traditional and simplified characters, or has the one form where more rows have the other",
    ),
    "odd rate": ("warning", "has more than 40 characters of text per second of speech"),
}
EXAMPLES = 5
HISTOGRAM_EDGES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 180.0, float("inf"))

_MISMATCH_SECONDS = 0.25
_CHARACTERS_PER_SECOND = 40.0
_CLIPPED_SHARE = 0.001
# A mark between two Latin letters, neither of the right apostrophes; U+02BB is a letter (Hawaiian, Uzbek).
_BETWEEN_LETTERS = re.compile(r"(?<=[A-Za-zÀ-ɏ])[^A-Za-zÀ-ɏ\s'’\u02bb](?=[A-Za-zÀ-ɏ])")
_TAG = re.compile(r"<[^<>\s]{1,30}>|\[[A-Z_ ]{2,}\]")
_ROWS_AT_ONCE = 2048


@dataclass
class Problem:
    """One kind of problem: how often, and where first."""

    severity: Severity
    meaning: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        """Count one, and keep the first few places."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(where)


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        rows: Rows that are no blank lines, valid or not.
        hours: Of all rows whose length is known.
        hours_by_task, rows_by_task, rows_by_direction, rows_by_corpus: Counts of the valid rows.
        histogram: Rows per length in seconds, between ``HISTOGRAM_EDGES``.
        problems: By kind, in the order of ``KINDS``; only kinds that occur.
        decoded: Whether the audio was decoded, or only its headers read.
    """

    path: str
    decoded: bool
    rows: int = 0
    hours: float = 0.0
    rows_by_task: Counter[str] = field(default_factory=Counter)
    hours_by_task: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    rows_by_direction: Counter[str] = field(default_factory=Counter)
    rows_by_corpus: Counter[str] = field(default_factory=Counter)
    histogram: list[int] = field(default_factory=lambda: [0] * (len(HISTOGRAM_EDGES) - 1))
    problems: dict[str, Problem] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not any(problem.severity == "error" for problem in self.problems.values())

    def note(self, kind: str, where: str) -> None:
        """Count a problem of a kind, and keep the first few places."""
        self.problems.setdefault(kind, Problem(*KINDS[kind])).add(where)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        plain = {
            name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()
        }
        edges = [None if edge == float("inf") else edge for edge in HISTOGRAM_EDGES]
        problems = {kind: asdict(problem) for kind, problem in self.problems.items()}
        return {"ok": self.ok, **plain, "problems": problems, "histogram_edges_seconds": edges}


def check(
    manifest: Manifest,
    *,
    decode: bool = False,
    workers: int = 4,
    progress: Callable[[int], None] | None = None,
) -> CheckReport:
    """Look at every row of a manifest and at its audio.

    Args:
        decode: Decode every span, which finds corrupt, silent and clipped audio, instead of reading headers.
        workers: Threads that read audio (decoding releases the interpreter lock).
        progress: Called with the number of rows done since the last call.

    Cost:
        Without ``decode`` one file header per row; with it all audio once. Memory: 24 bytes per row.
    """
    report = CheckReport(str(manifest.path), decode, rows=len(manifest))
    ids, files, spans = array("q"), array("q"), array("q")
    mismatches: list[tuple[int, str]] = []
    forms: dict[str, Problem] = {}
    valid = _valid_rows(manifest, report)
    with ThreadPoolExecutor(workers) as pool:
        while rows := list(itertools.islice(valid, _ROWS_AT_ONCE)):
            heard = pool.map(lambda row: _listen(manifest, row[1], decode), rows)
            for (index, row), sound in zip(rows, heard, strict=True):
                where = f"{manifest.where(index)} {row.id}"
                ids.append(hash(row.id))
                files.append(hash(row.audio))
                spans.append(hash((row.audio, row.offset, row.duration)))
                if wrong := _check_sound(report, where, row, sound):
                    mismatches.append((index, wrong))
                _check_text(report, where, row)
                _note_form(forms, where, row)
            if progress is not None:
                progress(len(rows))
    if not report.rows:
        report.note("no rows", str(manifest.path))
    # Ids are compared only where their hashes agree.
    repeated, seen = _several(ids), set[str]()
    for index, row in _valid_rows(manifest) if repeated else ():
        if hash(row.id) in repeated:
            if row.id in seen:
                report.note("duplicate id", f"{manifest.where(index)} {row.id}")
            seen.add(row.id)
    _, firsts = np.unique(np.array(spans), return_index=True)
    shared = _several(np.array(files)[firsts])  # a file that is there in different spans is cut by its rows
    for index, text in mismatches:
        if hash(manifest[index].audio) not in shared:
            report.note("duration mismatch", text)
    _report_forms(report, forms)
    report.hours = sum(report.hours_by_task.values())
    report.problems = {kind: report.problems[kind] for kind in KINDS if kind in report.problems}
    return report


def _valid_rows(manifest: Manifest, report: CheckReport | None = None) -> Iterator[tuple[int, Utterance]]:
    """Yield the valid rows with their numbers; note the others in a report."""
    for index in range(len(manifest)):
        try:
            yield index, manifest[index]
        except ManifestError as error:
            if report is not None:
                report.note("bad row", f"{manifest.where(index)} {error.got}")


def _several(hashes: array | np.ndarray) -> set[int]:
    """Return the values that occur more than once."""
    values, counts = np.unique(np.array(hashes), return_counts=True)
    return set(values[counts > 1].tolist())


@dataclass(frozen=True)
class _Sound:
    """What one look at a row's audio gave; all empty for a row of text."""

    seconds: float | None = None
    file_seconds: float | None = None
    error: str | None = None
    silent: bool = False
    clipped: bool = False
    remarks: tuple[str, ...] = ()


def _listen(manifest: Manifest, row: Utterance, decode: bool) -> _Sound:
    if row.audio is None:
        return _Sound()
    path = manifest.audio_path(row)
    try:
        info = probe(path)
        whole = info.duration_seconds
        wrong = _not_in_it(row, info)
        if wrong is not None:
            return _Sound(row.duration, whole, wrong)
        if not decode:
            left = whole - row.offset
            if left <= 0 or (row.duration or 0) > left + _MISMATCH_SECONDS:
                return _Sound(row.duration, whole, f"the span ends after the file ({whole:.2f} s)")
            return _Sound(row.duration or left, whole, remarks=info.remarks)
        heard = read_audio(path, **row.span)
        samples = heard.samples
    except AudioError as error:
        return _Sound(row.duration, None, error.what + (f" ({error.got})" if error.got else ""))
    clipped = float(np.mean(np.abs(samples) >= 0.999)) > _CLIPPED_SHARE
    return _Sound(len(samples) / SAMPLE_RATE_HZ, whole, None, is_silent(samples), clipped, heard.remarks)


def _not_in_it(row: Utterance, info: AudioInfo) -> str | None:
    """Say what of a row its file does not have: the channel, or the time of its last segment."""
    if row.channel is not None and row.channel >= info.num_channels:
        return f"there is no channel {row.channel} (of {info.num_channels})"
    end = max((part.end for part in row.segments or ()), default=0.0)
    if row.offset + end > info.duration_seconds + _MISMATCH_SECONDS:
        return f"a segment ends at {row.offset + end:.2f} s, after the file ({info.duration_seconds:.2f} s)"
    return None


def _check_sound(report: CheckReport, where: str, row: Utterance, sound: _Sound) -> str | None:
    """Count a row's sound and note what is wrong with it; return how its duration and its file's differ."""
    report.rows_by_task[row.task] += 1
    report.rows_by_corpus[row.corpus or "-"] += 1
    report.rows_by_direction[row.src_lang + (f"-{row.tgt_lang}" if row.tgt_lang else "")] += 1
    if sound.error is not None:
        report.note("unreadable audio", f"{where}: {sound.error}")
    if sound.seconds is None:
        return None
    for remark in sound.remarks:
        report.note("odd audio", f"{where}: {remark}")
    report.hours_by_task[row.task] += sound.seconds / 3600
    report.histogram[int(np.searchsorted(HISTOGRAM_EDGES, sound.seconds, side="right")) - 1] += 1
    if row.duration is None:
        report.note("no duration", where)
    characters = max(len(row.text or ""), len(row.translation or ""))
    dense = characters > _CHARACTERS_PER_SECOND * max(sound.seconds, 1)
    for kind, found in [
        ("long audio", sound.seconds > MAX_SECONDS and not row.segments),
        ("short audio", sound.seconds < 0.1),
        ("silent audio", sound.silent),
        ("clipped audio", sound.clipped),
        ("odd rate", dense and row.task != "aac"),
    ]:
        if found:
            report.note(kind, f"{where}: {sound.seconds:.2f} s")
    if row.duration is None or row.offset or not sound.file_seconds:
        return None
    if abs(sound.file_seconds - row.duration) <= _MISMATCH_SECONDS:
        return None
    return f"{where}: says {row.duration:.2f} s, is {sound.file_seconds:.2f} s"


def _check_text(report: CheckReport, where: str, row: Utterance) -> None:
    """Note what is wrong with a row's texts."""
    try:
        _ = row.target
    except ManifestError:
        report.note("no target", where)
    if row.task == "st" and row.text is None:
        report.note("no transcript", where)
    for code in {row.src_lang, row.answer_lang}:
        if code not in LANGUAGES:
            report.note("unknown language", f"{where}: {code}")
    for text, code in ((row.text, row.src_lang), (row.translation, row.tgt_lang or row.src_lang)):
        if text is None:
            continue
        if is_blank(text):
            report.note("empty text", where)
        elif complaint := _oddity(text):
            report.note("odd text", f"{where}: {complaint}: {text[:60]!r}")
        elif complaint := script_complaint(text, code):
            report.note("odd language", f"{where}: {complaint}: {text[:60]!r}")


def _note_form(forms: dict[str, Problem], where: str, row: Utterance) -> None:
    """Count a row by the form of its Chinese; one that has both counts as mixed."""
    texts = ((row.text, row.src_lang), (row.translation, row.tgt_lang or row.src_lang))
    found = {chinese_form(text) for text, code in texts if text and code == "zh"} - {None}
    if found:
        form = "mixed" if len(found) > 1 else str(found.pop())
        forms.setdefault(form, Problem(*KINDS["mixed Chinese"])).add(f"{where}: {form}")


def _report_forms(report: CheckReport, forms: dict[str, Problem]) -> None:
    """Note the rows whose Chinese is not in the form that most rows have."""
    whole = [form for form in ("simplified", "traditional") if form in forms]
    usual = max(whole, key=lambda form: forms[form].count, default=None)
    others = [problem for form, problem in forms.items() if form != usual]
    if others:
        examples = [where for problem in others for where in problem.examples][:EXAMPLES]
        count = sum(problem.count for problem in others)
        report.problems["mixed Chinese"] = Problem(*KINDS["mixed Chinese"], count, examples)


def _oddity(text: str) -> str | None:
    """Say what in a text is not language."""
    if found := _TAG.search(text):
        return f"a tag {found[0]}"
    if any(unicodedata.category(c) in ("Cc", "Co", "Cn") or c == "\ufffd" for c in text):
        return "a control or replacement character"
    if invisible := next((c for at, c in enumerate(text) if _invisible(text, at)), None):
        return f"an invisible character (U+{ord(invisible):04X})"
    between = (found[0] for found in _BETWEEN_LETTERS.finditer(text))
    if mark := next((mark for mark in between if same_apostrophes(mark) == "'"), None):
        return f"a mark in place of an apostrophe (U+{ord(mark):04X})"
    letters = [c for c in text if c.isalpha()]
    if len(letters) > 12 and all(c.isupper() for c in letters):
        return "capitals only (aista.text.normalize.sentence_case cures it)"
    return None


def _invisible(text: str, at: int) -> bool:
    """Whether nobody sees a character, and neither a script nor an emoji needs it.

    Joiners and variation selectors are companions of letters in Arabic, Indic and Mongolian script and of
    emoji.
    """
    character = text[at]
    if character.isascii() or without_invisible(character):
        return False
    joins = at > 0 and (
        character in "\u200c\u200d" or unicodedata.name(character, "").startswith("VARIATION")
    )
    return not (joins and (ord(text[at - 1]) >= 0x2190 or 0x0590 <= ord(text[at - 1]) < 0x1E00))
