"""What the report shows of single recordings: chosen by rule, so that nobody picks the pretty ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aista.audio.files import load_audio
from aista.data.collate import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.evaluation.decode import read_hypotheses
from aista.evaluation.inside import TransportMap, transport_map
from aista.evaluation.metrics import edit_distance
from aista.evaluation.page import Clip, Rendering

FIRST = 2


def exhibits(
    manifest: Path, evaluations: Mapping[str, Path], models: Mapping[str, str], layer: int
) -> list[Clip]:
    """Return the first clips of a test set and the one on which the systems differ most.

    Args:
        manifest: The test set; rows that share a recording are shown together.
        evaluations: System -> output folder of its ``aista evaluate``.
        models: System -> model folder; the transport plans of the first clip are taken from them.
        layer: Layer of the transport plans.

    Raises:
        EvaluationError, ManifestError, AudioError: What the stages left behind cannot be read.
    """
    answers = {
        key: {row.id: row.hypothesis for row in read_hypotheses(folder / f"{manifest.stem}.speech.jsonl")}
        for key, folder in evaluations.items()
    }
    groups = _recordings(Manifest(manifest), answers)
    names = list(groups)
    chosen = names[:FIRST]
    rest = names[FIRST:]
    if rest:
        chosen.append(max(rest, key=lambda name: _disagreement(groups[name], answers)))
    maps = _maps(manifest, groups[chosen[0]][0][0], models, layer) if chosen else {}
    title = manifest.stem.removeprefix("test_").replace("_", " ")
    return [
        _clip(
            groups[name],
            answers,
            note=f"{title} words · {'where the two differ most' if name in rest else f'number {number}'}",
            maps=maps if number == 1 else {},
            manifest=manifest,
        )
        for number, name in enumerate(chosen, start=1)
    ]


_Rows = list[tuple[int, Utterance]]


def _recordings(manifest: Manifest, answers: Mapping[str, Mapping[str, str]]) -> dict[Any, _Rows]:
    """Group the translated rows by their recording, in order of appearance."""
    groups: dict[Any, _Rows] = defaultdict(list)
    for index, row in enumerate(manifest):
        if row.task == "st" and row.translation and all(row.id in texts for texts in answers.values()):
            groups[row.audio, row.offset, row.channel].append((index, row))
    return groups


def _disagreement(rows: _Rows, answers: Mapping[str, Mapping[str, str]]) -> int:
    """Count the edits between the systems' translations."""
    total = 0
    for _, row in rows:
        one, *others = (texts[row.id] for texts in answers.values())
        total += sum(edit_distance(one, other) for other in others)
    return total


def _maps(manifest: Path, index: int, models: Mapping[str, str], layer: int) -> dict[str, TransportMap]:
    """Return each system's transport plan for one row."""
    from aista.inference.translator import load

    clip = SpeechDataset([Manifest(manifest)]).subset([index])
    maps = {}
    for key, folder in models.items():
        translator = load(folder)
        maps[key] = transport_map(translator.model, translator.processor, clip, layer)[0]
    return maps


def _clip(
    rows: _Rows,
    answers: Mapping[str, Mapping[str, str]],
    *,
    note: str,
    maps: dict[str, TransportMap],
    manifest: Path,
) -> Clip:
    _, first = rows[0]
    samples = load_audio(manifest.parent / str(first.audio), **first.span)
    renderings = [
        Rendering(row.answer_lang, row.target, {key: texts[row.id] for key, texts in answers.items()})
        for _, row in rows
    ]
    return Clip(f"{manifest.stem}-{first.id}", samples, first.text or "", note, renderings, maps)
