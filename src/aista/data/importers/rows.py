"""Formats of one flat row an utterance: tables, and the JSON of NeMo, Qwen-Audio, SALMONN and SLAM-LLM."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aista.audio.files import SPAN_TOLERANCE_SECONDS, probe
from aista.data.importers import NOTE, Options, Row, Skipped, language_code, stem
from aista.data.manifest import Utterance, answer_field
from aista.data.text_files import (
    Broken,
    array_items,
    header_of,
    read_json_lines,
    read_rows,
    write_json_lines,
)
from aista.errors import ConfigError, ManifestError
from aista.text.prompts import LANGUAGES

Given = Iterator[tuple[str, Row | Skipped | ManifestError]]


class Format(NamedTuple):
    """A format as :mod:`aista.data.importers` wants it."""

    read: Callable[[Path, Options], Given]
    write: Callable[[Iterable[Utterance], Path], None]


def _json_lines(parse: Callable[[Row, str, Options], Any], line: Callable[[Utterance], Row]) -> Format:
    """Return a format of JSON lines: ``parse`` reads one (at a place), ``line`` writes one."""

    def read(source: Path, options: Options) -> Given:
        for where, row in read_json_lines(source):
            yield where, parse(row, where, options)

    def write(rows: Iterable[Utterance], path: Path) -> None:
        write_json_lines(path, map(line, rows))

    return Format(read, write)


def _must_be_a_whole_file(row: Utterance, format_name: str) -> None:
    """Refuse what formats that name a file alone cannot say.

    Raises:
        AudioError: Whether the row is all of its file cannot be seen: the file cannot be read.
        ManifestError: The row is one channel, or a span, of its file, or has none.
    """
    if row.audio is None:
        raise ManifestError(f"Utterance {row.id!r} has no audio: {format_name} cannot hold it.")
    if row.channel is not None:
        raise ManifestError(
            f"Utterance {row.id!r} is channel {row.channel} of its file: {format_name} cannot say so.",
            advice="Write the sounds as files of their own first: aista data shard.",
        )
    part = f"offset {row.offset:g} s" if row.offset else None
    if part is None and row.duration is not None:
        whole = probe(row.audio).duration_seconds
        if whole > row.duration + SPAN_TOLERANCE_SECONDS:
            part = f"duration {row.duration:g} s of {whole:.2f} s"
    if part is not None:
        raise ManifestError(
            f"Utterance {row.id!r} is a span of its file: {format_name} cannot say so.",
            got=part,
            expected="rows that are all of their file",
            advice="Write the sounds of these rows as files of their own first.",
        )


def _must_be_plain(path: Path, format_name: str) -> None:
    """Refuse to write what would be called packed and is not read so either.

    Raises:
        ConfigError: The path ends in ``.gz``.
    """
    if path.suffix.lower() == ".gz":
        raise ConfigError(
            f"{format_name} is not read from a packed file.",
            got=path.suffix,
            advice="Leave .gz out of --out.",
        )


def _must_be_speech(row: Utterance, format_name: str) -> None:
    """Refuse what a format of recognition and speech translation alone cannot say.

    Raises:
        ManifestError: The row is of another task.
    """
    if row.task not in ("asr", "st"):
        raise ManifestError(
            f"Utterance {row.id!r} is of task {row.task}: {format_name} cannot say so.",
            expected="rows of task asr or st",
            advice="Keep the others in a manifest of their own.",
        )


# ---- NeMo: audio_filepath, duration, text, source_lang, target_lang, taskname

_NEMO_TRANSLATIONS = {"ast", "s2t_translation", "translate"}
# What NeMo's data sets and diarization manifests call the channel of a row.
_NEMO_CHANNELS = ("channel_selector", "channel", "audio_channel", "channel_id")


def _from_nemo(row: Row, where: str, options: Options) -> Row | Skipped | ManifestError:
    """Read a row; where it translates, ``text`` (or else ``answer``) is the translation.

    It does if ``taskname`` says so, or without one if its two languages differ. The channel ``average`` is
    the mean of all. Rows of several channels, or of several files, are skipped.
    """
    if "audio_filepath" not in row:
        return ManifestError(f"{where}: lacks audio_filepath.", got=sorted(row))
    path = row["audio_filepath"]
    if isinstance(path, list):
        return Skipped("several files in one row")
    if not isinstance(path, str) or not path:
        return Skipped("audio_filepath is no path")
    channel = next((row[name] for name in _NEMO_CHANNELS if row.get(name) is not None), "average")
    if isinstance(channel, list) and len(channel) == 1:
        channel = channel[0]
    if isinstance(channel, str) and channel.strip().isdigit():
        channel = int(channel)
    if channel != "average" and (type(channel) is not int or channel < 0):
        return Skipped(f"channel {str(channel)[:40]} of a recording, where one number is expected")
    src, tgt = row.get("source_lang") or row.get("lang"), row.get("target_lang")
    translates = row.get("taskname") in _NEMO_TRANSLATIONS
    if not row.get("taskname") and src and tgt:
        translates = language_code(str(src)) != language_code(str(tgt))
    answer = row.get("text")
    if answer is None or not str(answer).strip():
        answer = None if row.get("answer") == "na" else row.get("answer")  # "na": still to be transcribed
    return {
        "id": next((row[key] for key in ("id", "utt_id") if row.get(key) not in (None, "")), stem(path)),
        "audio": path,
        "offset": row.get("offset"),
        "duration": row.get("duration"),
        "channel": None if channel == "average" else channel,
        "src_lang": src,
        "tgt_lang": tgt if translates else None,
        "text": row.get("source_text") if translates else answer,
        "translation": answer if translates else None,
        "task": "st" if translates else None,
        "speaker": row.get("speaker"),
    }


def _to_nemo(row: Utterance) -> Row:
    _must_be_speech(row, "NeMo")
    translates = row.task == "st"
    return {
        "id": row.id,
        "audio_filepath": row.audio,
        "offset": row.offset or None,
        "duration": row.duration,
        "channel_selector": row.channel,
        "text": row.target,
        "source_text": row.text if translates else None,
        "source_lang": row.src_lang,
        "target_lang": row.answer_lang,
        "taskname": "ast" if translates else "asr",
        "speaker": row.speaker,
    }


# ---- Qwen-Audio: audio, gt, source; "source" names the test set, e.g. covost2_en_zh_test

_QWEN_DIRECTION = re.compile(r"(?:^|(?<=_))(?=([a-z]{2})[-_2]*([a-z]{2})(?:_|$))")  # they may overlap
_QWEN_LANGUAGE = re.compile(r"(?:^|_)([a-z]{2})$")
_QWEN_TAGGED = re.compile(r"^(.*?)<\|([a-z]{2})\|>(.*)$", re.DOTALL)


def _from_qwen(row: Row, where: str, options: Options) -> Row | ManifestError:
    """Read a row; the direction comes from its tag, the last one in its ``source``, or the defaults.

    A language alone at the end of ``source`` is that of a transcript.
    ``gt`` may hold transcript and translation around a language tag (``Hello.<|zh|>你好。``), as
    chain-of-thought recipes write it.
    """
    if not isinstance(row.get("audio"), str) or "gt" not in row:
        return ManifestError(f"{where}: lacks audio or gt.", got=sorted(row))
    test_set = str(row.get("source", ""))
    fields: Row = {"id": stem(row["audio"]), "audio": row["audio"], "corpus": test_set or None}
    for src, tgt in _QWEN_DIRECTION.findall(test_set):
        if src in LANGUAGES and tgt in LANGUAGES and src != tgt:
            fields |= {"src_lang": src, "tgt_lang": tgt, "task": "st"}
    if tagged := _QWEN_TAGGED.match(str(row["gt"])):
        text, tgt, translation = tagged.groups()
        texts = {"text": text.strip(), "translation": translation.strip()}
        return fields | texts | {"tgt_lang": tgt, "task": "st"}
    task = fields.get("task", options.defaults.get("task", "asr"))
    spoken = _QWEN_LANGUAGE.search(test_set)
    if task == "asr" and spoken and spoken[1] in LANGUAGES:
        fields["src_lang"] = spoken[1]
    return fields | {"translation" if task == "st" else "text": row["gt"]}


def _to_qwen(row: Utterance) -> Row:
    _must_be_a_whole_file(row, "Qwen-Audio")
    _must_be_speech(row, "Qwen-Audio")
    direction = f"{row.src_lang}_{row.tgt_lang}" if row.task == "st" else row.src_lang
    return {"audio": row.audio, "gt": row.target, "source": f"{row.corpus or 'own'}_{direction}"}


# ---- SLAM-LLM: key, source, target (recognition, captions); for translation see Qwen-Audio

_SLAM_TASKS = {
    "s2tt": "st", "s2t": "st", "ast": "st", "translate": "st", "translation": "st", "transcribe": "asr",
    "caption": "aac", "audiocaption": "aac",
}  # fmt: skip


def _from_slam(row: Row, where: str, options: Options) -> Row | Skipped | ManifestError:
    """Read a row; its own task and prompt are kept, otherwise the defaults name the task."""
    if not {"key", "source", "target"} <= row.keys():
        what, advice = f"{where}: lacks key, source or target.", "Is it the format 'qwen'?"
        return ManifestError(what, got=sorted(row), advice=advice)
    task = str(row["task"]).strip().lower() if row.get("task") else options.defaults.get("task")
    task = _SLAM_TASKS.get(str(task), task)
    if task not in (None, "asr", "aac", "st"):
        return Skipped(f"task {row['task']}")
    fields = {"task": task, "prompt": row.get("prompt"), answer_field(task): row["target"]}
    return {"id": str(row["key"]), "audio": row["source"], **fields}


def _to_slam(row: Utterance) -> Row:
    _must_be_a_whole_file(row, "SLAM-LLM")
    return {"key": row.id, "source": row.audio, "target": row.target, "prompt": row.prompt, "task": row.task}


# ---- SALMONN: {"annotation": [{"path", "text", "task", "Q", "expand_wav"}]}

# Its tasks that are ours; the others are questions about the sound.
_SALMONN_TASKS: dict[str, Row] = {
    "asr": {"task": "asr", "src_lang": "en"},
    "asr_zh": {"task": "asr", "src_lang": "zh"},
    "asr_de": {"task": "asr", "src_lang": "de"},
    "audiocaption": {"task": "aac"},
    "audiocaption_v2": {"task": "aac"},
    "translation_ec": {"task": "st", "src_lang": "en", "tgt_lang": "zh"},
    "translation_en2ja": {"task": "st", "src_lang": "en", "tgt_lang": "ja"},
    "translation_en2de": {"task": "st", "src_lang": "en", "tgt_lang": "de"},
}


def _read_salmonn(source: Path, options: Options) -> Given:
    """Read an annotation file; rows of other tasks, and of several files joined, are skipped."""
    for number, row in enumerate(array_items(source, "annotation"), start=1):
        where = f"{source}: annotation {number}"
        if not isinstance(row, dict):
            yield where, Skipped("no object")
            continue
        task = str(row.get("task", "asr"))
        if task not in _SALMONN_TASKS:
            yield where, Skipped(f"task {task}")
        elif row.get("expand_wav"):
            yield where, Skipped("several files joined (expand_wav)")
        elif not isinstance(row.get("path"), str) or "text" not in row:
            yield where, ManifestError(f"{where}: lacks path or text.", got=sorted(row))
        else:
            fields = _SALMONN_TASKS[task]
            text = {answer_field(fields["task"]): row["text"]}
            yield where, {"id": stem(row["path"]), "audio": row["path"], **text, **fields}


def _write_salmonn(rows: Iterable[Utterance], path: Path) -> None:
    _must_be_plain(path, "SALMONN's annotation")
    annotation = []
    for row in rows:
        _must_be_a_whole_file(row, "SALMONN")
        wanted = {"task": row.task, "src_lang": row.src_lang, "tgt_lang": row.tgt_lang}
        name = next((n for n, fields in _SALMONN_TASKS.items() if fields.items() <= wanted.items()), None)
        if name is None:
            raise ManifestError(
                f"Utterance {row.id!r} cannot be written for SALMONN.",
                got=wanted,
                expected=", ".join(_SALMONN_TASKS),
            )
        annotation.append({"path": row.audio, "text": row.target, "task": name})
    path.write_text(json.dumps({"annotation": annotation}, ensure_ascii=False, indent=1), encoding="utf-8")


# ---- tables: CSV with quotes, or TSV without, with a header; columns are named as our fields or mapped

_FIELDS = tuple(field for field in Utterance.model_fields if field != "segments")
_APART = re.compile(r"[\t\r\n]+")  # what ends a cell or a row of a TSV
_NUMBERS: dict[str, type[int] | type[float]] = {"offset": float, "duration": float, "channel": int}


def _read_table(source: Path, options: Options) -> Given:
    """Read a table; a column neither mapped nor named as a field is ignored, an empty cell is no value.

    A row with more or fewer cells than the header is skipped with its line: something in it was cut apart.
    """
    columns = _columns(source, header_of(source), options)
    texts = [columns[field] for field in ("text", "translation", "prompt") if field in columns]
    quoted = source.suffix.lower() == ".csv"
    for number, line in read_rows(source, texts=texts):
        where = f"{source}:{number}"
        if isinstance(line, Broken):
            yield where, Skipped(line.reason)
            continue
        row: Row = {field: line[column].strip() for field, column in columns.items() if line[column]}
        try:
            for field, kind in _NUMBERS.items():
                if row.get(field):
                    row[field] = _number(row[field], kind, f"{where}, column {columns[field]}", field)
        except ManifestError as error:
            yield where, error
            continue
        row.setdefault("id", stem(row.get("audio", where)))
        if not quoted and any(_has_doubled_quotes(line[column]) for column in texts):
            row[NOTE] = (
                "quotes doubled as in a CSV, taken as they stand: a file named .csv is read with them",
                where,
            )
        yield where, row


def _has_doubled_quotes(cell: str) -> bool:
    """Say whether pandas or a spreadsheet wrote a cell: in quotes, and each quote inside it twice."""
    inner = cell[1:-1]
    return cell[:1] == cell[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', "")


def _columns(source: Path, header: list[str], options: Options) -> dict[str, str]:
    wrong = [f"{f}={c}" for f, c in options.columns.items() if f not in _FIELDS or (c and c not in header)]
    if wrong:
        raise ConfigError(
            f"Cannot map {', '.join(wrong)}.",
            got=f"columns {', '.join(header)}",
            expected="FIELD=COLUMN, fields: " + ", ".join(_FIELDS),
        )
    named = {field: field for field in _FIELDS if field in header}
    columns = {field: column for field, column in (named | options.columns).items() if column}
    twice = sorted({column for column in columns.values() if header.count(column) > 1})
    if twice:
        raise ConfigError(f"{source} has several columns of one name.", got=", ".join(twice))
    if "audio" not in columns and "text" not in columns:
        raise ConfigError(
            f"{source} has no column for the audio.",
            got=f"columns {', '.join(header)}",
            advice="Map it: --column audio=path --column text=sentence",
        )
    return columns


def _number(text: str, kind: type[int] | type[float], where: str, field: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ManifestError(
            f"{where}: no {'whole ' if kind is int else ''}number.",
            got=text,
            advice=f"If this column is no {field}, leave it out: --column {field}=",
        ) from None


def _write_table(rows: Iterable[Utterance], path: Path) -> None:
    """Write a table with a column per field; tabs and line ends inside a text become spaces in a TSV.

    Raises:
        ManifestError: One stands in the path of a sound.
    """
    _must_be_plain(path, "A table")
    quoted = path.suffix.lower() == ".csv"
    dialect: Row = {} if quoted else {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, **dialect, lineterminator="\n")
        writer.writerow(_FIELDS)
        for row in rows:
            if not quoted and _APART.search(row.audio or ""):
                raise ManifestError(
                    f"Utterance {row.id!r}: a TSV cannot hold its path.",
                    got=repr(row.audio),
                    expected="no tab and no line end",
                    advice="Write a table with quotes: --out NAME.csv",
                )
            values = [getattr(row, field) for field in _FIELDS]
            cells = ["" if value is None else str(value) for value in values]
            writer.writerow(cells if quoted else [_APART.sub(" ", cell) for cell in cells])


FORMATS = {
    "nemo": _json_lines(_from_nemo, _to_nemo),
    "qwen": _json_lines(_from_qwen, _to_qwen),
    "salmonn": Format(_read_salmonn, _write_salmonn),
    "slam": _json_lines(_from_slam, _to_slam),
    "table": Format(_read_table, _write_table),
}
