"""What ``aista probe`` found, to look at: a picture like the paper's Figure 4, and a page of one file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

import aista
from aista.audio.files import load_audio
from aista.errors import AistaError
from aista.evaluation.decode import TransportMap
from aista.experiments import page
from aista.experiments.page import Clip
from aista.figures import NARROW, charts
from aista.files import write_whole
from aista.run_folder import SETTINGS
from aista.selection.probe import PLANS, REPORT, Probed, read_probe

PAGE = "probe.html"
_MANY_TOKENS = 40
_COSTS = {"squared_euclidean": "squared Euclidean"}
_CLOUDS = {"span": "the span", "sequence": "the whole sequence"}
# Title, scale, and the fields of a row by what they are called.
_BESIDE: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
    ("Length of a state", {"log": True}, {"speech": "norm_speech", "text": "norm_text"}),
    ("Mean distance of a clip and its transcript", {"log": True}, {"W": "mean_distance"}),
    ("Share of massive tokens", {"least": 0.0}, {"speech": "massive_speech", "text": "massive_text"}),
    ("Share of energy in four dimensions", {"least": 0.0},
     {"speech": "energy_top_dims_speech", "text": "energy_top_dims_text"}),
    ("Cosine of the mean states", {}, {"cosine": "cosine_of_means"}),
    ("Wrong transcripts of like length", {"least": 0.0}, {"MRR": "mrr", "shuffled": "shuffled"}),
)  # fmt: skip


def write_pages(folder: str | os.PathLike[str]) -> None:
    """Write ``probe.html``, ``probe.svg`` and ``probe.png`` beside a report, where they are not there yet.

    Raises:
        ConfigError: There is no report.
    """
    place = Path(folder)
    if (place / PAGE).exists() and (place / PAGE).stat().st_mtime >= (place / REPORT).stat().st_mtime:
        return
    models = read_probe(place)
    canvas = charts.probed(curves(models))
    write_whole(place / "probe.svg", canvas.standalone())
    (place / "probe.png").write_bytes(canvas.png())
    clips = [_clip(row) for row in json.loads((place / PLANS).read_text(encoding="utf-8"))]
    settings = (place / SETTINGS).read_text(encoding="utf-8") if (place / SETTINGS).exists() else ""
    write_whole(place / PAGE, render(models, clips, settings))


def render(models: Sequence[Probed], clips: Sequence[Clip], settings: str = "") -> str:
    """Return the page.

    Args:
        models: What was measured.
        clips: Recordings with a transport plan per model.
        settings: YAML text of the run's settings.
    """
    names = short_names(models)
    roles = {each.model: charts.PROBED[i % len(charts.PROBED)] for i, each in enumerate(models)}
    return page.render(
        "probe.html.j2", models=models, clips=clips, names=names, roles=roles, curves=curves(models),
        best={each.model: max(first(each), key=lambda row: row.mrr) for each in models},
        first={each.model: first(each) for each in models}, beside=_beside(models), settings=settings,
        small_curve=lambda data: charts.curves(data, NARROW).svg(), version=aista.__version__,
        costs=_COSTS, clouds=_CLOUDS,
    )  # fmt: skip


def short_names(models: Sequence[Probed]) -> dict[str, str]:
    """Return what each model is called: the last part of its name, or all of it where two share that."""
    last = [Path(each.model).name or each.model for each in models]
    return {
        each.model: name if last.count(name) == 1 else each.model
        for each, name in zip(models, last, strict=True)
    }


def first(model: Probed) -> list[Any]:
    """Return the rows of the first prompt, cloud and cost, one a layer."""
    return list(next(group for _, group in groupby(model.rows, key=_condition)))


def curves(models: Sequence[Probed]) -> dict[str, Any]:
    """Return the panels of Figure 4: one for each prompt, cloud and cost, a line for each model in it."""
    names, panels = short_names(models), []
    for condition in dict.fromkeys(_condition(row) for each in models for row in each.rows):
        prompt, cloud, cost = condition
        lines, levels, lengths = [], {}, {}
        for i, each in enumerate(models):
            rows = [row for row in each.rows if _condition(row) == condition]
            role, points = charts.PROBED[i % len(charts.PROBED)], [(row.depth, row.mrr) for row in rows]
            lines.append({"title": names[each.model], "role": role, "points": points})
            levels[f"chance of {rows[0].num_pairs} pairs"] = rows[0].chance
            lengths[names[each.model]] = rows[0].length_only
        if len({round(value, 3) for value in lengths.values()}) == 1:
            lengths = {"": next(iter(lengths.values()))}
        levels |= {f"lengths alone {name}".strip(): value for name, value in lengths.items()}
        before = {"own": "its own prompt", "none": "no prompt"}.get(prompt, f"after {prompt!r}")
        title = f"{_COSTS.get(cost, cost)} cost, {_CLOUDS[cloud]}, {before}"
        panels.append({"title": title, "lines": lines, "levels": levels})
    return {"panels": panels}


def _condition(row: Any) -> tuple[str, str, str]:
    return row.prompt, row.cloud, row.cost


def _beside(models: Sequence[Probed]) -> list[dict[str, Any]]:
    """Return the small curves, those of one model after those of the other."""
    names, found = short_names(models), []
    for each in models:
        rows = first(each)
        of = f" in {names[each.model]}" if len(models) > 1 else ""
        for title, scale, fields in _BESIDE:
            series = [
                {"name": name, "role": role, "points": [(row.layer, getattr(row, key)) for row in rows]}
                for (name, key), role in zip(fields.items(), ("system", "base"), strict=False)
            ]
            found.append({"title": title + of, "series": series, "across": "layer", **scale})
    return found


def _clip(row: dict[str, Any]) -> Clip:
    """Return a pair with its sound and its plans; a sound that has gone leaves its plans."""
    span = {key: row[key] for key in ("offset_seconds", "duration_seconds", "channel") if key in row}
    samples: np.ndarray | None = None
    with contextlib.suppress(AistaError):
        samples = load_audio(row["audio"], **span)
    maps = {}
    for model, plan in row["plans"].items():
        shares = np.zeros((plan["speech_tokens"], len(plan["tokens"])))
        for i, j, mass in plan["moves"]:
            shares[i, j] = mass
        tokens = plan["tokens"]
        if len(tokens) > _MANY_TOKENS:  # a row a word, where the words are apart
            starts = [j for j, token in enumerate(tokens) if j == 0 or token[:1].isspace()]
            shares = np.add.reduceat(shares, starts, axis=1)
            tokens = ["".join(tokens[a:b]) for a, b in pairwise([*starts, len(tokens)])]
        maps[model] = TransportMap(plan["layer"], tokens, shares.tolist(), plan["value"])
    return Clip(row["id"], samples, row["text"], row["id"], maps=maps)
