"""Whole recordings against the segments of a reference: as they are, and as streams.

A recording goes in whole, and its text is cut again to fit the reference segments, so that no system is
helped by the reference's own cuts: by mweralign for the score of the whole (BLEU, chrF), by OmniSTEval for
streams (BLEU, chrF, and LongYAAL, how late words are).
"""

from __future__ import annotations

import importlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from aista.audio import speech
from aista.audio.files import load_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import AistaError, EvaluationError
from aista.evaluation.decode import Hypothesis, claim_file, read_finished_lines
from aista.evaluation.metrics import Comet, bleu, chrf
from aista.evaluation.results import part_warnings, versions
from aista.files import write_whole
from aista.inference.streaming import Stream
from aista.inference.translating import SpeechTranslator
from aista.text.normalize import is_blank
from aista.text.prompts import language

LONG_FORM, STREAMING = "long_form.json", "streaming.json"
_SCORERS = {  # package -> what it is for, and what brings it
    "mweralign": ("Cutting a text by reference segments needs mweralign.", "pip install '.[long-form]'"),
    "omnisteval": ("The delay of streams is scored by OmniSTEval.", "pip install '.[streaming]'"),
}


@dataclass(frozen=True)
class Talk:
    """A recording and its reference.

    Attributes:
        audio: Path of the file.
        source, target: ISO codes; the same where the task is to transcribe.
        segments: (offset, duration, reference) in seconds, in order; a blank reference is not scored.
        transcripts: What is said in each segment, where that is known.
        channel: Which channel of the file it is, counted from 0; None: the mean of all.
    """

    audio: str
    source: str
    target: str
    segments: tuple[tuple[float, float, str], ...]
    transcripts: tuple[str, ...] = ()
    channel: int | None = None

    @property
    def name(self) -> str:
        """What tells it from the other channels of its file."""
        return self.audio if self.channel is None else f"{self.audio}#{self.channel}"


def talks(paths: Sequence[str], limit: int | None = None) -> list[Talk]:
    """Gather the rows of manifests by their recordings, of at most ``limit``; a channel is one of its own.

    Raises:
        EvaluationError: No row has a reference, rows go into several languages, or in one recording several
            are spoken.
    """
    found: dict[tuple[str, str, str, int | None], list[tuple[float, float, str, str]]] = {}
    for path in paths:
        dataset = SpeechDataset(Manifest(path))
        for row, seconds in zip(dataset.utterances(), dataset.lengths.tolist(), strict=True):
            if row.audio is None or row.task not in ("st", "asr"):
                continue
            rows = found.setdefault((row.audio, row.src_lang, row.answer_lang, row.channel), [])
            parts = [(part.offset, part.duration, part.text, part.translation) for part in row.segments or ()]
            for offset, length, text, translation in parts or [(0.0, seconds, row.text, row.translation)]:
                reference = (translation if row.task == "st" else text) or ""
                reference = "" if is_blank(reference) else " ".join(reference.split())
                rows.append((row.offset + offset, length, reference, text or ""))
    whole = [
        Talk(audio, source, target, tuple(row[:3] for row in rows), tuple(row[3] for row in rows), channel)
        for (audio, source, target, channel), rows in ((key, sorted(rows)) for key, rows in found.items())
    ][:limit]
    targets = sorted({target for _, _, target, _ in found})
    if len(targets) != 1 or not any(map(_is_scored, whole)):
        raise EvaluationError(
            "These manifests are no test set of recordings.",
            got=f"{sum(map(_is_scored, whole))} recordings with a reference, into {targets}",
            expected="rows of task st or asr with references, into one language",
        )
    spoken: dict[str, list[str]] = defaultdict(list)
    for talk in whole:
        spoken[talk.name].append(talk.source)
    for name, sources in spoken.items():
        if len(sources) > 1:
            raise EvaluationError(
                f"{name}: rows of one recording name several spoken languages.",
                got=", ".join(sources),
                expected="one: a recording is heard whole",
                advice="Leave out the rows of the others.",
            )
    return whole


def _is_scored(talk: Talk) -> bool:
    """Whether any segment has a reference."""
    return any(text for *_, text in talk.segments)


def demand(package: str) -> None:
    """Demand the package that scores, mweralign or omnisteval.

    Raises:
        EvaluationError: It is not installed.
    """
    try:
        importlib.import_module(package)
    except ImportError:
        what, advice = _SCORERS[package]
        raise EvaluationError(what, advice=advice) from None


def long_form(
    system: SpeechTranslator,
    whole: Sequence[Talk],
    output: Path,
    comet: Comet | None = None,
    fingerprint: str = "",
) -> dict[str, Any]:
    """Translate whole recordings and score them against their segments.

    ``recordings.jsonl`` holds what was translated: an interrupted evaluation goes on, and asks again where
    there was an error.

    Args:
        system: What translates.
        whole: The recordings, into one language; each is asked about in its own.
        output: Folder of the results.
        comet: Scores too, ``comet_zh``, where it is given.
        fingerprint: Whatever identifies the system and the test set.

    Returns:
        ``scores`` (``bleu_zh``, ``chrf_zh``, over all segments), ``signatures``, ``recordings`` (text and
        warnings of each, or its error), ``num_segments``, and ``warnings``: what a reader of the scores
        should know; also written to ``long_form.json``, and the segments as they were cut to
        ``long_form.jsonl``.

    Raises:
        EvaluationError: mweralign is not installed, or the output holds recordings of something else.
    """
    code, log = whole[0].target, output / "recordings.jsonl"
    claim_file(log, _maker(system, whole, fingerprint))
    done = {row["index"]: row for row in read_finished_lines(log) if "error" not in row}
    todo: dict[tuple[str, int | None], list[int]] = defaultdict(list)  # by what is spoken, and where
    for index, talk in enumerate(whole):
        if index not in done:
            todo[talk.source, talk.channel].append(index)
    with log.open("a", encoding="utf-8") as file, tqdm(desc="recordings", total=len(whole)) as bar:
        bar.update(len(done))
        for (source, channel), indices in todo.items():
            system.channel = channel
            results = system.stream([whole[index].audio for index in indices], code, source=source)
            for index, result in zip(indices, results, strict=True):
                row: dict[str, Any] = {"index": index, "audio": whole[index].name}
                if isinstance(result, AistaError):
                    row["error"] = str(result)
                else:
                    row |= {"text": result.text, "warnings": [str(each) for each in result.warnings]}
                    row["finished"] = all(each.kind != "cut" for each in result.warnings)
                done[index] = row
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                bar.update()
    recordings = [done[index] for index in range(len(whole))]
    hypotheses = [
        part
        for talk, row in zip(whole, recordings, strict=True)
        for part in resegmented(row.get("text", ""), [text for *_, text in talk.segments], code)
    ]
    segments = [(talk.name, *row) for talk in whole for row in talk.segments]
    references = [text for *_, text in segments]
    names = ("audio", "offset", "duration", "reference", "hypothesis")
    rows = [(*row, text) for row, text in zip(segments, hypotheses, strict=True)]
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
    write_whole(output / "long_form.jsonl", "".join(lines))
    scored = {f"bleu_{code}": bleu(hypotheses, references, code)}
    scored[f"chrf_{code}"] = chrf(hypotheses, references)
    if comet is not None:
        sources = [text for talk in whole for text in talk.transcripts]
        scored[f"comet_{code}"] = comet.score(hypotheses, references, sources)
    found = {
        "model": system.name,
        "scores": {name: score.value for name, score in scored.items()},
        "signatures": {name: score.signature for name, score in scored.items()},
        "num_segments": len(references),
        "warnings": _warnings(system, whole, recordings, rows),
        "recordings": recordings,
        "versions": versions(),
    }
    write_whole(output / LONG_FORM, json.dumps(found, ensure_ascii=False, indent=1))
    return found


def _warnings(
    system: SpeechTranslator,
    whole: Sequence[Talk],
    recordings: Sequence[dict[str, Any]],
    rows: Sequence[tuple[str, float, float, str, str]],
) -> list[str]:
    """Say what a reader of the scores should know of recordings and texts, as of rows elsewhere."""
    told, count = _blank_references(whole), len(recordings)
    if failed := [row["error"] for row in recordings if "error" in row]:
        told.append(
            f"{len(failed)} of {count} recordings failed and count as empty answers, e.g. {failed[0]}"
        )
    most = system.generation.max_new_tokens
    if cut := [row["audio"] for row in recordings if not row.get("finished", True)]:
        told.append(
            f"{len(cut)} of {count} recordings hold answers that reached max_new_tokens = {most} and may be "
            f"cut, e.g. {cut[0]}: the scores count them as they are"
        )
    texts = [
        Hypothesis(f"{Path(name).name} at {start:g} s", "st", whole[0].target, text, reference, None)
        for name, start, _, reference, text in rows
    ]
    return told + part_warnings([], texts, most)


def _blank_references(whole: Sequence[Talk]) -> list[str]:
    references = [text for talk in whole for *_, text in talk.segments]
    told = f"{references.count('')} of {len(references)} segments have no reference, or a blank one, and are"
    return [f"{told} not scored"] if "" in references else []


def resegmented(text: str, references: Sequence[str], code: str) -> list[str]:
    """Cut a text into as many parts as there are references, each as near to its own as can be.

    Spaces are kept also where letters are aligned: between the words of a name in a Chinese sentence.

    Raises:
        EvaluationError: mweralign is not installed.
    """
    demand("mweralign")
    from mweralign import align_texts

    spaces = language(code).spaces

    def tokens(line: str) -> str:
        line = line.replace("###", "+++")  # which parts two references of a segment in mweralign
        return " ".join(line.split() if spaces else "".join(line.split()))

    if not text.strip():
        return [""] * len(references)
    if not any(line.strip() for line in references):  # mweralign ends the process at a single blank one
        return [" ".join(text.split()), *[""] * (len(references) - 1)]
    cut = align_texts("\n".join(map(tokens, references)), tokens(text)).split("\n")
    ends = [0, *(place for place, letter in enumerate(text, start=1) if not letter.isspace())]
    edges = [ends[count] for count in accumulate(len("".join(line.split())) for line in cut)]
    parts = [" ".join(text[first:end].split()) for first, end in pairwise([0, *edges])]
    return (parts + [""] * len(references))[: len(references)]


def streaming(
    system: SpeechTranslator,
    whole: Sequence[Talk],
    output: Path,
    chunk_seconds: Sequence[float],
    fingerprint: str = "",
) -> dict[str, Any]:
    """Stream recordings, once for every chunk size, and score quality and delay with OmniSTEval.

    Beside the results lie ``instances.log``, ``segments.yaml`` and ``references.txt`` of every chunk size, as
    OmniSTEval's ``longform`` reads them, and ``streaming.png``, quality over delay. A recording that the log
    holds is not streamed again: an interrupted evaluation goes on.

    Args:
        system: What translates.
        whole: The recordings.
        output: Folder of the results.
        chunk_seconds: Sizes of the chunks in seconds.
        fingerprint: Whatever identifies the system and the test set.

    Returns:
        ``by_chunk_seconds``: OmniSTEval's scores and the real-time factor, and ``warnings``, as in
        ``streaming.json``. Recordings without a reference are not streamed.

    Raises:
        EvaluationError: OmniSTEval is not installed, or the output holds streams of something else.
        AudioError, ModelInputError: A recording cannot be heard to its end.
    """
    warnings = _blank_references(whole)
    whole = list(filter(_is_scored, whole))  # OmniSTEval fails where there is no word
    maker = _maker(system, whole, fingerprint)
    found: dict[str, Any] = {"model": system.name, "by_chunk_seconds": {}, "warnings": warnings}
    found["versions"] = versions()
    for seconds in chunk_seconds:
        folder = output / f"chunk-{seconds:g}"
        log = folder / "instances.log"
        claim_file(log, maker)
        rows = read_finished_lines(log)
        with log.open("a", encoding="utf-8") as file:
            todo = tqdm(whole[len(rows) :], desc=f"streams, {seconds:g} s", unit="talk")
            for talk in todo:
                rows.append({"index": len(rows), **streamed(system, talk, seconds)})
                file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
                file.flush()
        places = [
            {"wav": talk.name, "offset": start, "duration": length}
            for talk in whole
            for start, length, _ in talk.segments
        ]
        write_whole(folder / "segments.yaml", yaml.safe_dump(places, allow_unicode=True))
        texts = [text for talk in whole for *_, text in talk.segments]
        write_whole(folder / "references.txt", "\n".join(texts) + "\n")
        heard, computed = (sum(row[key] for row in rows) for key in ("source_length", "computation"))
        scores = {**omnisteval(folder, whole[0].target), "real_time_factor": computed / heard}
        found["by_chunk_seconds"][f"{seconds:g}"] = scores
    write_whole(output / STREAMING, json.dumps(found, ensure_ascii=False, indent=1))
    draw(found["by_chunk_seconds"], output / "streaming.png")
    return found


def _maker(system: SpeechTranslator, whole: Sequence[Talk], fingerprint: str) -> dict[str, Any]:
    """Return what a log of recordings is made by."""
    search = system.generation.model_dump(mode="json", exclude={"batch_size"})
    maker = {**search, "detector": speech.is_installed(), "recordings": len(whole), "from": fingerprint}
    channels = [talk.channel for talk in whole]
    return {**maker, "channels": channels} if any(each is not None for each in channels) else maker


def streamed(system: SpeechTranslator, talk: Talk, chunk_seconds: float) -> dict[str, Any]:
    """Stream one recording; return its row of SimulEval's log.

    ``delays`` and ``elapsed`` are milliseconds, one for each word (without spaces: each character): how much
    sound had been heard when it was given out, and when that was had the sound come in real time;
    ``computation`` and ``source_length`` are those of the whole.
    """
    samples = load_audio(talk.audio, channel=talk.channel)
    stream = Stream(system, talk.target, source=talk.source, chunk_seconds=chunk_seconds)
    size = max(1, round(chunk_seconds * SAMPLE_RATE_HZ)) if math.isfinite(chunk_seconds) else len(samples)
    spaces = language(talk.target).spaces
    delays: list[float] = []
    elapsed: list[float] = []
    clock = compute = 0.0
    for place in range(0, len(samples) + size, size):
        part = samples[place : place + size].astype(np.float32, copy=False)
        begun = time.perf_counter()
        emission = stream.push(part) if len(part) else stream.finish()
        taken = time.perf_counter() - begun
        compute += taken
        clock = max(clock, emission.end) + taken
        count = len(stream.text.split()) if spaces else len(stream.text)
        delays += [1000 * emission.end] * (count - len(delays))
        elapsed += [1000 * clock] * (count - len(elapsed))
    return {
        "source": [talk.name],
        "prediction": stream.text,
        "delays": delays,
        "elapsed": elapsed,
        "prediction_length": len(delays),
        "source_length": 1000 * len(samples) / SAMPLE_RATE_HZ,
        "computation": 1000 * compute,
    }


def omnisteval(folder: Path, code: str) -> dict[str, float]:
    """Score a folder of :func:`streaming` with OmniSTEval.

    A delay that it cannot tell is left out, as where every word came after the end of its recording.

    Raises:
        EvaluationError: It is not installed.
    """
    demand("omnisteval")
    from omnisteval.io import load_resegmentation_inputs
    from omnisteval.resegment import resegment
    from omnisteval.scoring import evaluate_instances

    by_letter = not language(code).spaces
    places, texts, log = (str(folder / name) for name in ("segments.yaml", "references.txt", "instances.log"))
    words, said, segmentation, references = load_resegmentation_inputs(
        places, None, texts, log, char_level=by_letter
    )
    instances, _ = resegment(
        ref_words=words, hyp_words=said, segmentation=segmentation, ref_sentences=references,
        char_level=by_letter, lang=None if by_letter else code,
    )  # fmt: skip
    scores, *_ = evaluate_instances(instances, bleu_tokenizer=language(code).bleu_tokenizer)
    return {name: float(value) for name, value in scores.items() if math.isfinite(value)}


def draw(by_chunk: dict[str, dict[str, float]], path: Path) -> None:
    """Draw BLEU over the delay of words, a point for each chunk size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name, label in (("long_yaal", "sound alone"), ("ca_long_yaal", "with computation")):
        points = sorted((row[name] / 1000, row["bleu"], key) for key, row in by_chunk.items() if name in row)
        if points:
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o", label=label)
        for x, y, key in points:
            axes.annotate(f"{key} s", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(xlabel="LongYAAL (s)", ylabel="BLEU")
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=150)
