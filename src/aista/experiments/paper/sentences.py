"""Single sentences, chosen by rule: Figure 7's cases, and those whose transport plans are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aista.analysis.comparison import Answered, Case, find_cases
from aista.audio.files import load_audio, write_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.evaluation.decode import Hypothesis, read_hypotheses, transport_map
from aista.evaluation.metrics import chrf
from aista.experiments.paper.systems import PAIR, Context, Run
from aista.experiments.results import FILES
from aista.selection.select import LayerReport
from aista.text.prompts import language

COUNT = 2
LONGEST_SECONDS = 12.0
RULE = (
    f"Rule: of each backbone and language the {COUNT} sentences with the largest gain and the {COUNT} with "
    "the largest loss in sentence-level chrF2, one per recording, first seed. Nobody picked."
)
_BINS = 14


def pairs_of_runs(context: Context) -> dict[str, list[tuple[Run, Run]]]:
    """Return, by backbone, base and AI-STA of every seed of which both are there, lowest seed first."""
    found: dict[str, list[tuple[Run, Run]]] = {}
    runs = sorted(context.runs, key=lambda run: run.seed)
    for base in (run for run in runs if run.system == PAIR[0]):
        ours = Run(base.backbone, PAIR[1], base.seed, base.root, base.direction)
        if ours in runs:
            found.setdefault(base.backbone, []).append((base, ours))
    order = list(context.layers) or list(found)
    return {name: found[name] for name in sorted(found, key=lambda n: order.index(n) if n in order else 99)}


def figure7(context: Context) -> dict[str, Any] | None:
    """Return the sentences on which base and AI-STA differ most, both ways, with their sounds."""
    cases: list[dict[str, Any]] = []
    counts: list[dict[str, Any]] = []
    for backbone in pairs_of_runs(context):
        for code in _languages(context, backbone):
            rows, others, places = _answers(context, backbone, code)
            if not rows:
                continue
            found = find_cases(rows, _sentence_score, first=PAIR[0], second=PAIR[1], count=COUNT)
            about = {"panel": f"{context.backbone(backbone)}, {language(code).name}", "backbone": backbone}
            numbers = {key: value for key, value in vars(found).items() if key not in ("better", "worse")}
            counts.append({**about, "language": code, **numbers, **_histogram(rows)})
            for way, shown in (("better", found.better), ("worse", found.worse)):
                for case in shown:
                    name = f"case-{len(cases)}"
                    sound = saved_clip(context, *places[case.row.id], name, LONGEST_SECONDS)
                    seeds = [_difference(texts[case.row.id], case.row.reference) for texts in others]
                    cases.append({"id": name, "way": way, **about, **sound, **_case_values(case, seeds)})
    if not counts:
        return None
    return {
        "name": "figure7",
        "title": "Figure 7: cases",
        "caption": "Sentences on which base and AI-STA differ most, as many that AI-STA translates better as "
        "worse. Above: the change in sentence-level chrF2 over all test sentences that changed.",
        "notes": [RULE, "The paper (6.7) shows two sentences, both in favour of its method."],
        "data": {
            "cases": cases,
            "counts": counts,
            "titles": {run.system: context.title(run.system) for run in context.runs},
            "rows": [
                {name: case[name] for name in _SHOWN} | {f"text_{k}": v for k, v in case["texts"].items()}
                for case in cases
            ],
        },
    }


_SHOWN = ("panel", "way", "row", "audio", "offset", "source", "reference", "difference")


def _languages(context: Context, backbone: str) -> list[str]:
    codes: dict[str, None] = {}
    for run in context.runs:
        if run.backbone == backbone and run.system in PAIR:
            codes |= dict.fromkeys(row.language for row in _hypotheses(context, run))
    return list(codes)


def _hypotheses(context: Context, run: Run) -> list[Hypothesis]:
    """Return a run's translations of speech."""
    paths = [run.evaluation / f"{manifest.stem}.speech.jsonl" for manifest in context.tests]
    return [row for path in paths for row in read_hypotheses(path) if row.task == "st" and not row.error]


def _answers(
    context: Context, backbone: str, code: str
) -> tuple[list[Answered], list[dict[str, dict[str, str]]], dict[str, tuple[Path, int]]]:
    """Return the first seed's answers of all systems, the pair's of other seeds, each row's place.

    Systems that did not answer every row of the pair are left out.
    """
    texts: dict[tuple[str, int], dict[str, str]] = {}
    references: dict[str, Hypothesis] = {}
    for run in (run for run in context.runs if run.backbone == backbone):
        mine = {row.id: row for row in _hypotheses(context, run) if row.language == code}
        if mine:
            answers = texts.setdefault((run.system, run.seed), {})
            answers |= {key: row.hypothesis for key, row in mine.items()}
        if run.system == PAIR[0]:
            references |= mine
    seeds = sorted({seed for name, seed in texts if name == PAIR[0] and (PAIR[1], seed) in texts})
    if not seeds:
        return [], [], {}
    first, *later = seeds
    places = {row.id: (path, i, row) for path in context.tests for i, row in enumerate(Manifest(path))}
    shown = {name: found for (name, seed), found in texts.items() if seed == first}
    ids = [key for key in references if key in places and all(key in shown[name] for name in PAIR)]
    whole = {name: found for name, found in shown.items() if found.keys() >= set(ids)}
    rows = []
    for key in ids:
        row, said = references[key], places[key][2]
        recording = f"{said.audio}@{said.offset}#{said.channel}"
        found = {name: answers[key] for name, answers in whole.items()}
        rows.append(Answered(key, recording, row.language, said.text or "", row.reference, found))
    others = [{key: {name: texts[name, seed].get(key, "") for name in PAIR} for key in ids} for seed in later]
    return rows, others, {key: places[key][:2] for key in ids}


def _sentence_score(hypothesis: str, reference: str) -> float:
    return chrf([hypothesis], [reference]).value


def _difference(texts: Mapping[str, str], reference: str) -> float:
    base, system = (_sentence_score(texts[name], reference) for name in PAIR)
    return system - base


def _histogram(rows: list[Answered]) -> dict[str, Any]:
    changed = [d for row in rows if (d := _difference(row.texts, row.reference))]
    reach = max(10.0, 10 * np.ceil(max(map(abs, changed), default=0.0) / 10))
    edges = np.linspace(-reach, reach, _BINS + 1)
    # A change of exactly 0 at an inner edge counts to the right: those were left out above.
    histogram, _ = np.histogram(changed, bins=edges)
    return {"edges": edges.tolist(), "histogram": histogram.tolist()}


def _case_values(case: Case, seeds: list[float]) -> dict[str, Any]:
    return {
        "row": case.row.id,
        "language": case.row.language,
        "reference": case.row.reference,
        "texts": dict(case.row.texts),
        "scores": {name: round(value, 2) for name, value in case.scores.items()},
        "difference": round(case.difference, 2),
        "other_seeds": [round(value, 2) for value in seeds],
    }


def saved_clip(
    context: Context, manifest: Path, index: int, name: str, most_seconds: float | None = None
) -> dict[str, Any]:
    """Copy a row's sound beside the figures; returns its file, where it is from, and what is said."""
    rows = Manifest(manifest)
    row = rows[index]
    samples = load_audio(rows.audio_path(row), **row.span)
    place = Path(FILES) / f"{name}.flac"
    write_audio(context.folder / place, samples[: most_seconds and int(most_seconds * SAMPLE_RATE_HZ)])
    return {"clip": str(place), "audio": str(row.audio), "offset": row.offset, "source": row.text or ""}


# ---- transport plans ----


@dataclass(frozen=True)
class Sentence:
    """A row of a test set and why it is shown."""

    manifest: Path
    index: int
    why: str


def chosen_sentences(context: Context) -> list[Sentence]:
    """Return the first recording of every test set, and the first backbone's largest gain and loss."""
    pairs = pairs_of_runs(context)
    if not pairs:
        return []
    chosen = []
    for path in context.tests:
        title = path.stem.removeprefix("test_").replace("_", " ")
        index = next((i for i, row in enumerate(Manifest(path)) if row.audio and row.text), None)
        if index is not None:
            chosen.append(Sentence(path, index, f"first of {title}"))
    backbone = next(iter(pairs))
    for code in _languages(context, backbone)[:1]:
        rows, _, places = _answers(context, backbone, code)
        found = find_cases(rows, _sentence_score, first=PAIR[0], second=PAIR[1], count=1)
        tongue = language(code).name
        for way, shown in (("gain", found.better), ("loss", found.worse)):
            chosen += [Sentence(*places[c.row.id], f"largest {way} into {tongue}") for c in shown]
    return chosen


def transport(context: Context) -> dict[str, Any] | None:
    """Return the transport plans of base and AI-STA for sentences chosen by rule."""
    from aista.inference.translator import load

    chosen = chosen_sentences(context)
    if not chosen:
        return None
    backbone, pairs = next(iter(pairs_of_runs(context).items()))
    layer = min(LayerReport.load(context.layers[backbone]).selected, default=0)
    clips: list[dict[str, Any]] = []
    for number, sentence in enumerate(chosen):
        # The whole sound: the plan covers it.
        sound = saved_clip(context, sentence.manifest, sentence.index, f"transport-{number}")
        clips.append({"id": f"transport-{number}", **sound, "why": sentence.why, "maps": {}})
    for run in pairs[0]:
        speech_llm = load(run.model).speech_llm
        for clip, sentence in zip(clips, chosen, strict=True):
            one = SpeechDataset([Manifest(sentence.manifest)]).subset([sentence.index])
            found = transport_map(speech_llm, one, layer)[0]
            plan = [[round(mass, 5) for mass in row] for row in found.plan]
            clip["maps"][run.system] = {
                "layer": layer, "tokens": found.tokens, "plan": plan, "value": found.value,
                "token_seconds": found.token_seconds,
            }  # fmt: skip
    return {
        "name": "transport",
        "title": "From sound to token",
        "caption": "The cheapest transport between the windows of a clip and the tokens of its transcript at "
        f"layer {layer}: each column is {found.token_seconds:.2g} s, each row a token, and the tint says "
        "where the mass of that window goes. Where speech has become text, the dark cells run down the "
        "diagonal.",
        "notes": [f"{context.backbone(backbone)}, seed {pairs[0][0].seed}. W in the model's own units."],
        "data": {
            "layer": layer,
            "clips": clips,
            "titles": {run.system: context.title(run.system) for run in pairs[0]},
            "rows": [
                {"source": clip["source"], "system": name, "layer": layer, "W": found["value"]}
                for clip in clips
                for name, found in clip["maps"].items()
            ],
        },
    }
