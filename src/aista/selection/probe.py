"""Where does any speech LLM hold speech close to its text? Retrieval, norms and distances at every layer."""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from aista import ot, processes
from aista.config import ProbeSettings
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import ConfigError, ManifestError
from aista.files import write_whole
from aista.model.bases import locate
from aista.retrieval.tokens import under_cost
from aista.run_folder import claim, inputs_of
from aista.selection.hidden_states import Extraction
from aista.selection.select import Measured, about_layer, as_clouds, clips_with_text, retrieved
from aista.speech_llm import SpeechLM
from aista.speech_llm.adapter import config_of
from aista.text.prompts import text_ids

logger = logging.getLogger(__name__)

REPORT, PLANS = "probe.json", "plans.json"
_STATES = "states"
_SHOWN = 3
_TAG = re.compile(r"<\|[^|<>\s]+\|>")


class ProbeRow(Measured):
    """One layer of one model under one cost, cloud and prompt."""

    model: str


class Plan(BaseModel):
    """The optimal transport plan between a clip's speech tokens and its transcript's tokens.

    Attributes:
        layer: The one with the model's highest MRR under the first cost, cloud and prompt.
        cost: The first one asked for. value: The transport cost W (Eq. 1) under it.
        speech_tokens: n, how many there are.
        tokens: m transcript tokens as text.
        moves: [i, j, mass]: what moves from speech token i to text token j. All masses sum to 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int
    cost: str
    value: float
    speech_tokens: int
    tokens: list[str]
    moves: list[tuple[int, int, float]]


class Probed(BaseModel):
    """One model: what was measured of it, and what a reader should know.

    Attributes:
        model: As it was named.
        model_type: Its class in transformers.
        num_layers, hidden_size, dtype: Of its decoder.
        before: Prompt -> the tokens that stood before the span, as text.
        failed: Id of a clip that could not be used -> why.
        warnings: Sentences.
        rows: A row for each layer, cost, cloud and prompt.
        plans: Id of a pair -> its transport plan.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_type: str
    num_layers: int
    hidden_size: int
    dtype: str
    before: dict[str, list[str]]
    failed: dict[str, str]
    warnings: list[str]
    rows: list[ProbeRow]
    plans: dict[str, Plan]


def probe(settings: ProbeSettings) -> list[Probed]:
    """Measure models on the same clips; write ``probe.json`` and ``plans.json`` into the output folder.

    Running it again goes on where it stopped: a model that is finished is not loaded again, and of the others
    the hidden states that lie on disk are used.

    Raises:
        ConfigError: A model cannot be probed, and why; the output folder holds another run; or the disk has
            no room for the states.
        ManifestError: There are fewer than two different transcripts, or a chosen pair is not there.
        ModelInputError: A model takes none of the clips.
    """
    output = Path(settings.output)
    with claim(output, settings, lambda: inputs_of(settings), result=REPORT) as done:
        if done:
            return read_probe(output)
        for source in settings.models:  # all are looked at before the first hour is spent on one
            config_of(locate(source))
        pairs = _pairs(settings)
        found = [_probed(i, pairs, settings, output / _STATES) for i in range(len(settings.models))]
        processes.by_main(lambda: _finish(output, settings, pairs, found))
        return found


def _finish(output: Path, settings: ProbeSettings, pairs: SpeechDataset, found: Sequence[Probed]) -> None:
    """Write the report last, and drop the hidden states."""
    shown = {id for each in found for id in each.plans}
    clips = [
        {**row.model_dump(include={"audio", "text"}), "id": name, **row.span, "plans": {}}
        for name, row in zip(_names(pairs), pairs.utterances(), strict=True)
        if name in shown
    ]
    for clip in clips:
        clip["plans"] = {p.model: p.plans[clip["id"]].model_dump() for p in found if clip["id"] in p.plans}
    write_whole(output / PLANS, json.dumps(clips, ensure_ascii=False, indent=1))
    models = [each.model_dump(exclude={"rows", "plans"}) for each in found]
    rows = [{"model": row.model, **row.model_dump()} for each in found for row in each.rows]
    values = {"settings_sha256": settings.sha256(), "models": models, "rows": rows}
    write_whole(output / REPORT, json.dumps(values, ensure_ascii=False, indent=1))
    shutil.rmtree(output / _STATES)


def read_probe(folder: Path) -> list[Probed]:
    """Read what ``probe`` wrote into a folder.

    Raises:
        ConfigError: The report is missing or is none.
    """
    try:
        report, clips = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (REPORT, PLANS))
        return [
            Probed(
                **about,
                rows=[row for row in report["rows"] if row["model"] == about["model"]],
                plans={c["id"]: c["plans"][about["model"]] for c in clips if about["model"] in c["plans"]},
            )
            for about in report["models"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"Cannot read the report {folder / REPORT}.", got=error, advice="Write one with `aista probe`."
        ) from None


def _pairs(settings: ProbeSettings) -> SpeechDataset:
    """Draw the clips: those whose plans are asked for, and others at random."""
    dataset = SpeechDataset([Manifest(path) for path in settings.data])
    short = None if settings.max_seconds is None else (dataset.lengths <= settings.max_seconds).tolist()
    usable = clips_with_text(dataset.utterances(), short)
    asked = [i for i in usable if dataset.utterance(i).id in settings.plans]
    if absent := set(settings.plans) - {dataset.utterance(i).id for i in asked}:
        raise ManifestError(
            "A pair whose plan is asked for is not among the clips with a transcript.",
            got=", ".join(sorted(absent)),
            expected=", ".join(dataset.utterance(i).id for i in usable[:5]) + ", ...",
        )
    others = [i for i in usable if i not in asked]
    count = min(max(settings.num_pairs - len(asked), 0), len(others))
    drawn = sorted([*asked, *random.Random(settings.seed).sample(others, count)])
    if len({dataset.utterance(i).text for i in drawn}) < 2:
        raise ManifestError(
            "Retrieval needs at least two different transcripts.",
            got=f"{len(drawn)} clips with {min(len(drawn), 1)} transcript",
            advice="Add rows with audio and text to the data; a clip that stands in several counts once.",
        )
    return dataset.subset(drawn)


def _names(pairs: SpeechDataset) -> list[str]:
    """Return the clips' ids; of equal ones, which two manifests may have, the later ones say so."""
    seen, names = Counter[str](), list[str]()
    for row in pairs.utterances():
        seen[row.id] += 1
        names.append(row.id if seen[row.id] == 1 else f"{row.id} (no. {seen[row.id]} of this id)")
    return names


def _probed(number: int, pairs: SpeechDataset, settings: ProbeSettings, folder: Path) -> Probed:
    """Measure one model after every prompt; what is finished lies in ``folder``."""
    parts = [folder / f"{number}_{i}.json" for i in range(len(settings.prompts))]
    speech_llm = None
    for part, prompt in zip(parts, settings.prompts, strict=True):
        if not processes.by_main(part.exists):
            speech_llm = speech_llm or _load(settings.models[number], settings)
            text = "" if prompt == "none" else prompt.replace("\\n", "\n")
            given = None if prompt == "own" else text_ids(speech_llm.batcher.tokenizer, text)
            cloud = "sequence" if "sequence" in settings.clouds else "span"
            extraction = Extraction(speech_llm, pairs, part.with_suffix(""), cloud, given)
            estimate = extraction.estimate(settings.batch_size)
            about = f"prompt {prompt!r}, {len(pairs)} pairs"
            processes.by_main(partial(_make_room, part.with_suffix(""), estimate, about))
            extraction.run(settings.batch_size)
            found = _measured(settings.models[number], extraction, settings, prompt)
            processes.by_main(partial(write_whole, part, found.model_dump_json()))
            processes.by_main(partial(shutil.rmtree, part.with_suffix("")))
    first, *others = [Probed.model_validate_json(part.read_text()) for part in parts]
    for other in others:
        first.before.update(other.before)
        first.failed.update(other.failed)
        first.warnings.extend(other.warnings)
        first.rows.extend(other.rows)
    return first


def _load(source: str, settings: ProbeSettings) -> SpeechLM:
    files = [path for kind in ("*.safetensors", "*.bin") for path in locate(source).glob(kind)]
    _say(f"{source}: {_gigabytes(sum(path.stat().st_size for path in files))} of weights are loaded")
    options: dict[str, Any] = {} if settings.dtype == "auto" else {"dtype": getattr(torch, settings.dtype)}
    if settings.quantization:
        options["quantization"] = settings.quantization
    place = {"": processes.device()} if torch.cuda.is_available() else None
    return SpeechLM.load(source, device_map=place, **options)


def _make_room(folder: Path, estimate: tuple[float, float], about: str) -> None:
    """Say how much disk and memory the states will take.

    Raises:
        ConfigError: The disk has less.
    """
    (disk, layer), begun = estimate, folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    _say(
        f"{about}: hidden states take about {_gigabytes(disk)} of disk "
        f"({_gigabytes(free)} free), ranking a layer about {_gigabytes(3 * layer)} of memory"
    )
    if disk > free and not begun:
        raise ConfigError(
            f"The disk of {folder} has no room for the hidden states.",
            got=f"{_gigabytes(free)} free",
            expected=f"about {_gigabytes(disk)}",
            advice="Choose another output or fewer pairs (--num-pairs), or leave --cloud sequence out.",
        )


def _measured(source: str, extraction: Extraction, settings: ProbeSettings, prompt: str) -> Probed:
    """Measure all layers of one model after one prompt."""
    speech_llm, pairs, left_out = extraction.speech_llm, extraction.dataset, extraction.failed
    kept = [pair for pair in range(len(pairs)) if pair not in left_out]
    names = _names(pairs)
    failed = {names[pair]: why for pair, why in left_out.items()}
    texts = [pairs.utterance(pair).text or "" for pair in kept]
    if len(set(texts)) < 2:
        raise ManifestError(
            f"Fewer than two different transcripts are left for {source}.",
            got="; ".join(f"{id}: {why}" for id, why in list(failed.items())[:3]),
        )
    own = []
    for cloud in settings.clouds:
        mine = range(processes.rank(), speech_llm.num_layers + 1, processes.count())
        bar = {"desc": f"ranking, {cloud}", "unit": "layer", "disable": not processes.is_main()}
        for states in tqdm(extraction.layers(mine, cloud), total=len(mine), **bar):
            about = {**about_layer(states, texts), "model": source, "cloud": cloud, "prompt": prompt}
            own += [ProbeRow(**about, **retrieved(states, texts, cost)) for cost in settings.costs]
    clouds, costs = [str(name) for name in settings.clouds], [str(name) for name in settings.costs]
    rows = sorted(
        (row for share in processes.gather(own) for row in share),
        key=lambda row: (clouds.index(row.cloud), costs.index(row.cost), row.layer),
    )
    plans: dict[str, Plan] = {}
    if prompt == settings.prompts[0]:
        best = max(rows[: speech_llm.num_layers + 1], key=lambda row: row.mrr).layer
        plans = processes.by_main(partial(_plans, extraction, best, settings))
    ids, _ = extraction.tokens(kept[0])
    tokenizer = speech_llm.batcher.tokenizer
    warnings = _warnings(rows, failed)
    tags = {tag: len(text_ids(tokenizer, tag)) for tag in dict.fromkeys(_TAG.findall(tokenizer.decode(ids)))}
    if broken := [f"{tag} ({count} pieces)" for tag, count in tags.items() if count > 1]:
        # The model reads a tag that its tokenizer takes to pieces as letters.
        warnings.insert(0, f"has tags that are no single tokens of this model: {', '.join(broken)}")
    warnings = [f"Prompt {prompt!r}: {sentence}" for sentence in warnings]
    for sentence in warnings:
        logger.warning("%s: %s", source, sentence)
    return Probed(
        model=source,
        model_type=speech_llm.model.config.model_type,
        num_layers=speech_llm.num_layers,
        hidden_size=speech_llm.hidden_size,
        dtype=str(speech_llm.model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        before={prompt: [tokenizer.decode([token]) for token in ids]},
        failed=failed,
        warnings=warnings,
        rows=rows,
        plans=plans,
    )


def _plans(extraction: Extraction, layer: int, settings: ProbeSettings) -> dict[str, Plan]:
    """Return the plans of the chosen pairs at one layer, under the first cost."""
    (states,) = extraction.layers([layer], "span")
    left_out = extraction.failed
    kept = [pair for pair in range(len(extraction.dataset)) if pair not in left_out]
    names, asked = _names(extraction.dataset), settings.plans
    chosen = [i for i, pair in enumerate(kept) if extraction.dataset.utterance(pair).id in asked]
    tokenizer = extraction.speech_llm.batcher.tokenizer
    speech, text = under_cost(*as_clouds(states), settings.costs[0])
    found = {}
    for place in chosen or range(min(_SHOWN, len(kept))):
        solution = ot.solve(ot.squared_euclidean(speech[place].double(), text[place].double()).numpy())
        _, written = extraction.tokens(kept[place])
        found[names[kept[place]]] = Plan(
            layer=layer,
            cost=settings.costs[0],
            value=solution.value,
            speech_tokens=len(speech[place]),
            tokens=[tokenizer.decode([token]) for token in written],
            moves=[(i, j, float(solution.plan[i, j])) for i, j in zip(*solution.plan.nonzero(), strict=True)],
        )
    return found


def _warnings(rows: Sequence[ProbeRow], failed: dict[str, str]) -> list[str]:
    """Return what a reader of one prompt's rows should know."""
    found = []
    for cloud in dict.fromkeys(row.cloud for row in rows):
        swamped = [
            row.layer for row in rows if (row.cloud, row.cost) == (cloud, "squared_euclidean") and row.swamped
        ]
        if swamped:
            found.append(
                f"at layers {swamped} (cloud {cloud}) a few massive tokens hold most of the energy. Squared "
                "Euclidean distances compare these and hardly the rest; look at another cost, or let more "
                "tokens stand before the speech."
            )
    if failed:
        found.append(f"{len(failed)} clips were left out, e.g. {': '.join(next(iter(failed.items())))}")
    return found


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"


def _say(text: str) -> None:
    if processes.is_main():
        print(text, file=sys.stderr, flush=True)
