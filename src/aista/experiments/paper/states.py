"""What figures show from inside the models: representations in the plane (Figure 5), transport plans."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aista.analysis.embedding_map import FEWEST, Closeness, MeanStates, closeness, density, mean_states, plane
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.evaluation.decode import transport_map
from aista.experiments.paper.sentences import chosen_sentences, pairs_of_runs, saved_clip
from aista.experiments.paper.systems import Context, Run
from aista.experiments.results import PLACE
from aista.run_folder import sha256_of_model
from aista.selection.select import LayerReport

MOST_PAIRS = 1000
MAP_SEED = 0
FILES = f"{PLACE}/files"


def figure5(context: Context) -> dict[str, Any] | None:
    """Return mean speech and text representations of base and AI-STA in one plane, and their distances."""
    panels: list[dict[str, Any]] = []
    bounds: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    kept: dict[str, np.ndarray] = {}
    num_pairs = 0
    for backbone, pairs in pairs_of_runs(context).items():
        states = {run: _remembered(context, run) for pair in pairs for run in pair}
        num_pairs = len(next(iter(states.values())).speech)
        if num_pairs < FEWEST:
            continue
        rows += [_distances(context, run, closeness(found)) for run, found in states.items()]
        drawn = {run.system: states[run] for run in pairs[0]}
        laid, bounds[backbone] = _laid(drawn)
        for run in pairs[0]:
            panel, arrays = _panel(context, run, laid, bounds[backbone], several=len(context.layers) > 1)
            panels.append(panel)
            kept |= {f"{backbone}/{run.system}/{name}": array for name, array in arrays.items()}
    if not panels:
        return None
    folder = context.folder / FILES
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "figure5.npz", **kept)  # type: ignore[arg-type]
    return {
        "name": "figure5",
        "title": "Figure 5: speech and text in one plane",
        "caption": "What enters the language model, averaged over the tokens of each clip and of its "
        f"transcript, for {num_pairs} test clips: t-SNE of both models together (seed {MAP_SEED}), "
        "with the regions that hold 25, 50 and 75 % of a kernel density estimate. The text lies in the same "
        "place in both panels where the models share their embedding.",
        "notes": [
            "t-SNE shows neighbours, not distances; the table has those, measured in the original space.",
            "The paper (6.4) shows 1,000 pairs of CoVoST2 En-Zh with Qwen2-7B and reports no distance.",
        ],
        "data": {"panels": panels, "bounds": bounds, "rows": rows},
    }


def _remembered(context: Context, run: Run) -> MeanStates:
    """Return the mean states of a run's test clips, from disk if they were computed for this very model."""
    digest = hashlib.sha256(sha256_of_model(str(run.model)).encode())
    for path in context.tests:
        digest.update(Path(path).read_bytes())
    place = context.folder / "cache" / f"{run.name.replace('/', '-')}.npz"
    if place.exists():
        with np.load(place) as found:
            if str(found["key"]) == digest.hexdigest():
                return MeanStates(found["speech"], found["text"])
    states = _computed(context, run)
    place.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(place, key=digest.hexdigest(), speech=states.speech, text=states.text)
    return states


def _computed(context: Context, run: Run) -> MeanStates:
    from aista.inference.translator import load
    from aista.model.feature_cache import cached_features

    translator = load(run.model)
    model, processor = translator.model, translator.processor
    paths = [str(path) for path in context.tests]
    store = None
    if folder := context.features.get(run.backbone):
        store = cached_features(model, processor, paths, folder)
    clips = SpeechDataset([Manifest(path) for path in paths], features=store).clips()
    clips = clips.subset(np.flatnonzero(clips.lengths <= translator.longest_seconds))
    if len(clips) > MOST_PAIRS:
        draw = np.random.default_rng(MAP_SEED).choice(len(clips), MOST_PAIRS, replace=False)
        clips = clips.subset(np.sort(draw))
    return mean_states(model, processor, clips, layer=0)


def _distances(context: Context, run: Run, found: Closeness) -> dict[str, Any]:
    return {
        "backbone": run.backbone,
        "system": run.system,
        "group": context.title(run.backbone),
        "title": context.title(run.system),
        "seed": run.seed,
        **vars(found),
        "relative_centroid_distance": found.relative_centroid_distance,
        "relative_paired_distance": found.relative_paired_distance,
        "pairing": found.pairing,
    }


def _laid(states: Mapping[str, MeanStates]) -> tuple[dict[str, np.ndarray], list[float]]:
    """Lay speech and text of all systems into one plane; also return its ends with some air."""
    laid = plane(
        {f"{name}/{kind}": getattr(s, kind) for name, s in states.items() for kind in _KINDS}, MAP_SEED
    )
    everything = np.vstack(list(laid.values()))
    low, high = everything.min(0), everything.max(0)
    air = 0.12 * (high - low)
    ends = [low[0] - air[0], high[0] + air[0], low[1] - air[1], high[1] + air[1]]
    return laid, [round(float(end), 3) for end in ends]


_KINDS = ("speech", "text")


def _panel(
    context: Context, run: Run, laid: Mapping[str, np.ndarray], bounds: Sequence[float], several: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    title = context.title(run.system)
    if several:
        title = f"{context.title(run.backbone)} · {title}"
    panel: dict[str, Any] = {
        "backbone": run.backbone,
        "system": run.system,
        "title": title,
        "seed": run.seed,
        "contours": {},
    }
    arrays: dict[str, np.ndarray] = {}
    for kind in _KINDS:
        points = laid[f"{run.system}/{kind}"]
        estimate = density(points, bounds)
        panel[kind] = points.round(2).tolist()
        panel["contours"][kind] = [
            [piece.round(2).tolist() for piece in pieces] for pieces in estimate.contours()
        ]
        arrays |= {kind: points, f"{kind}_density": estimate.values}
        arrays |= {"grid_x": estimate.x, "grid_y": estimate.y}
    return panel, arrays


def transport(context: Context) -> dict[str, Any] | None:
    """Return the transport plans of base and AI-STA for sentences chosen by rule."""
    chosen = chosen_sentences(context)
    if not chosen:
        return None
    backbone, pairs = next(iter(pairs_of_runs(context).items()))
    layer = min(LayerReport.load(context.layers[backbone]).selected, default=0)
    clips: list[dict[str, Any]] = []
    for number, sentence in enumerate(chosen):
        sound = saved_clip(context, sentence.manifest, sentence.index, f"transport-{number}")
        clips.append({"id": f"transport-{number}", **sound, "why": sentence.why, "maps": {}})
    for run in pairs[0]:
        for clip, found in zip(clips, _plans(run, chosen, layer), strict=True):
            clip["maps"][run.system] = found
    return {
        "name": "transport",
        "title": "From sound to token",
        "caption": "The cheapest transport between the windows of a clip and the tokens of its transcript at "
        f"layer {layer}: each column is a third of a second, each row a token, and the tint says where the "
        "mass of that window goes. Where speech has become text, the dark cells run down the diagonal.",
        "notes": [f"{context.title(backbone)}, seed {pairs[0][0].seed}. W in the model's own units."],
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


def _plans(run: Run, sentences: Sequence[Any], layer: int) -> list[dict[str, Any]]:
    """Return a model's plans for these sentences, numbers rounded for the page."""
    from aista.inference.translator import load

    translator = load(run.model)
    plans = []
    for sentence in sentences:
        one = SpeechDataset([Manifest(sentence.manifest)]).subset([sentence.index])
        found = transport_map(translator.speech_llm, one, layer)[0]
        shares = [[round(mass, 5) for mass in row] for row in found.plan]
        plans.append({"layer": layer, "tokens": found.tokens, "plan": shares, "value": found.value})
    return plans
