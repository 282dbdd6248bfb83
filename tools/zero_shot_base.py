"""Zero-shot speech translation on real weights: the runs of docs/decisions/zero-shot-experiment.md.

    python tools/zero_shot_base.py translator
    python tools/zero_shot_base.py run --seeds 11 12 13 --systems aligned base cosine_half --split test
    python tools/zero_shot_base.py bounds --split test
    python tools/zero_shot_base.py run --experiment heard --start EAR --systems base cosine_half --split fresh
    python tools/zero_shot.py collect --folder runs/zero_shot --split test docs/results/base
    python tools/zero_shot.py report docs/results/base

Run it where data/ and the bases of docs/results/base/zero_shot/*.yaml lie. Translation is taught on text
alone, once, and frozen; the ear alone learns from speech with transcripts. What is finished is not run again.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from aista import processes
from aista.audio.files import load_audio
from aista.baselines.cascade import Options, System
from aista.config import AlignSettings, PretrainSettings
from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest, write_manifest
from aista.errors import ConfigError
from aista.evaluation.decode import read_hypotheses
from aista.evaluation.evaluate import EvaluateSettings, evaluate
from aista.files import write_whole
from aista.model.feature_cache import cached_features
from aista.model.lora import merge
from aista.speech_llm import SpeechLM
from aista.speech_llm.decoder import Targets
from aista.text.prompts import script_complaint
from aista.training.stages import align, pretrain

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of a script only its own folder is there
from tools.zero_shot import cpu_seconds

RESULTS = Path(__file__).parent.parent / "docs/results/base"
HOME, FEATURES = Path("runs/zero_shot"), "runs/features"
COSINE = "alignment={method: wasserstein, layers: LAYERS, alpha: 0.5, options: {scale: cosine}}"
SYSTEMS = {
    "aligned": "",
    "pulled": "alignment={method: wasserstein, layers: LAYERS, options: {scale: cosine}}",
    "base": "alignment={method: none}",
    "cosine_half": COSINE,
    "retrieval": "alignment={method: retrieval, layers: LAYERS, alpha: 0.8}",
    "maxsim": "alignment={method: retrieval, layers: LAYERS, alpha: 0.8, options: {similarity: maxsim}}",
    "mean": "alignment={method: retrieval, layers: LAYERS, alpha: 0.8, options: {similarity: mean}}",
    "distillation": "alignment={method: distillation, alpha: 0.5}",
    "shuffled": COSINE,
    "uniform": "alignment={method: tools.uniform_plan, layers: LAYERS, alpha: 0.5}",
    "both": "alignment={method: tools.wasserstein_and_means, layers: LAYERS, alpha: 0.5}",
    "unaligned": "alignment={method: none}",
}


def translator() -> None:
    """Teach the language model to translate text, and merge that into a backbone of its own."""
    target = HOME / "translator"
    if target.exists():
        return
    run = pretrain(PretrainSettings.load(RESULTS / "zero_shot/translator.yaml"))
    speech_llm = SpeechLM.load(run.folder)
    merge(speech_llm.model.backbone)
    speech_llm.model.backbone.save_pretrained(target)
    speech_llm.processor.tokenizer.save_pretrained(target)


def go(chosen: argparse.Namespace, name: str, seed: int) -> None:
    """Train one system under a seed, let it answer, and write its rows."""
    run = HOME / "runs" / chosen.experiment / name / f"seed_{seed}"
    path = run / f"{chosen.split}_rows.json"
    if path.exists():
        return
    first = chosen.start.format(system=name, seed=seed) or run.parent.parent / "aligned" / f"seed_{seed}"
    configs = RESULTS / chosen.configs
    model = AlignSettings.load(configs / "align.yaml").model
    begin = (
        {"model": model, "init": None} if name.endswith("aligned") else {"model": None, "init": str(first)}
    )
    how = SYSTEMS[name].replace("LAYERS", str(chosen.layers))
    data = ""
    if chosen.pairs:
        also = "".join(f", data/{other}.jsonl" for other in chosen.beside)
        data = f"data.train=[data/pairs{chosen.pairs}.jsonl{also}]"
    elif name == "shuffled":  # the control: transcripts of other clips to align with
        data = "data.train=[data/train.shuffled.jsonl, data/text.jsonl]"
    changes = [f"output={run}", f"seed={seed}", *filter(None, [how, data]), *chosen.set]
    with cpu_seconds(run) as spent:
        if name in ("aligned", "pulled"):
            done = align(AlignSettings.load(configs / "align.yaml", changes, begin))
        else:
            done = pretrain(PretrainSettings.load(configs / "ear.yaml", changes, begin))
    about = _about(chosen, name, seed, done.steps)
    about["mrr"] = done.best_mrr  # of the held-out pairs, where they were ranked
    data = [f"data/{chosen.split}.jsonl", f"data/{chosen.split}.asr.jsonl"]
    write_rows(path, {**about, "cpu_seconds": spent()}, run, data, chosen)


def _about(chosen: argparse.Namespace, name: str, seed: int, steps: int) -> dict[str, Any]:
    return {
        "experiment": chosen.experiment, "system": name, "seed": seed, "steps": steps,
        "num_pairs": chosen.pairs,
    }  # fmt: skip


def bounds(chosen: argparse.Namespace) -> None:
    """Let the translator read the true transcripts and Whisper's own, and the common start (if any) hear."""
    heard = Path(f"data/{chosen.split}.whisper.jsonl")
    if not heard.exists():
        whisper = System(Options(asr=chosen.whisper, llm=chosen.llm))
        rows = []
        manifest = Manifest(f"data/{chosen.split}.jsonl")
        for row in manifest:
            text = whisper.hear([load_audio(manifest.audio_path(row))], "en")[0].text
            told = {"task": "mt", "audio": None, "duration": None, "text": text or "-"}
            rows.append(row.model_copy(update=told))
        write_manifest(heard, rows)
    aligned = HOME / "runs" / chosen.experiment / "aligned" / f"seed_{chosen.seeds[0]}"
    model = Path(chosen.start) if chosen.start else aligned
    asked = {"text": [f"data/{chosen.split}.mt.jsonl"], "cascade": [str(heard)]}
    if chosen.start:
        asked["start"] = [f"data/{chosen.split}.jsonl", f"data/{chosen.split}.asr.jsonl"]
    for name, data in asked.items():
        path = HOME / "runs" / chosen.experiment / name / "seed_0" / f"{chosen.split}_rows.json"
        about = {**_about(chosen, name, 0, 0), "cpu_seconds": 0.0}
        if not path.exists():
            write_rows(path, about, model, data, chosen, kind="speech" if name == "start" else "text")


def write_rows(
    path: Path, about: dict[str, Any], model: Path, data: list[str], chosen: Any, kind: str = "speech"
) -> None:
    """Evaluate a model and write a row a language, with its answers, references and losses."""
    output = path.parent / chosen.split
    scores: dict[str, Any] = {"scores": {}, "signatures": {}}
    answers: list[Any] = []
    if not chosen.losses_only:
        scores = evaluate(
            EvaluateSettings(
                output=str(output),
                model=str(model),
                data=data,
                features=FEATURES,
                silence_check=False,
                measures=["speech" if kind == "speech" else "text_translation"],
                generation={"max_new_tokens": 40, "batch_size": chosen.batch},
                limit=chosen.limit,
                dtype=chosen.dtype,
            )
        )
        answers = read_hypotheses(output / f"{Path(data[0]).stem}.{kind}.jsonl")
    losses = cross_entropies(model, data[0], chosen.dtype, max(1, chosen.batch // 5))
    rows = []
    for code in sorted({row.tgt_lang or "" for row in Manifest(data[0])}):
        asked = [r for r in Manifest(data[0]) if r.tgt_lang == code]
        ids = [r.id for r in asked]
        of = {row.id: row for row in answers}
        here = [of[each] for each in ids if each in of]
        wrong = sum(script_complaint(row.hypothesis, code) is not None for row in here)
        prefix = "" if kind == "speech" else "mt_"
        rows.append(
            {
                **about, "language": code,
                "bleu": scores["scores"].get(f"{prefix}bleu_{code}"),
                "chrf": scores["scores"].get(f"{prefix}chrf_{code}"),
                "wrong_language": wrong / len(here) if here else None,
                "wer": scores["scores"].get("wer_en"),
                "cross_entropy": fmean(losses[each] for each in ids),
                "text_bleu": None, "cascade_bleu": None,
                "num_sentences": len(here), "num_losses": len(ids),
                "sentences": sha256("\n".join(r.target for r in asked).encode()).hexdigest()[:12],
                "signature": scores["signatures"].get(f"{prefix}bleu_{code}"), "split": chosen.split,
                "hypotheses": [row.hypothesis for row in here],
                "references": [row.reference for row in here], "losses": [losses[each] for each in ids],
            }
        )  # fmt: skip
        brief = ("language", "bleu", "chrf", "wer", "cross_entropy", "cpu_seconds")
        print(about["system"], about["seed"], *(rows[-1][key] for key in brief), flush=True)
    write_whole(path, json.dumps(rows, ensure_ascii=False))
    gc.collect()


@torch.no_grad()
def cross_entropies(model: Path, data: str, dtype: str, batch: int) -> dict[str, float]:
    """Return the cross-entropy of every reference translation, teacher-forced: nats a token, by id."""
    speech_llm = SpeechLM.load(model, dtype=dtype, device_map={"": processes.device()})
    speech_llm.packs = True
    dataset = SpeechDataset([Manifest(data)])
    if dataset.has_sound.any():
        dataset.use_features(cached_features(speech_llm.model, speech_llm.processor, [data], FEATURES))
    collator, found = Collator(speech_llm.batcher), {}
    for first in range(0, len(dataset), batch):
        places = range(first, min(first + batch, len(dataset)))
        rows: Any = collator([dataset[i] for i in places])["speech"].to(speech_llm.model.device)
        logits: Any = speech_llm.predict(rows, logits="targets").logits
        targets = Targets(rows.labels, rows.num_targets)
        each = cross_entropy(logits.float(), targets.ids, reduction="none")
        counts = torch.bincount(targets.where // rows.labels.shape[1], minlength=len(places)).tolist()
        for place, values in zip(places, each.split(counts), strict=True):
            found[dataset.utterance(place).id] = float(values.mean())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Teach, run, or take the bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["translator", "run", "bounds"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["aligned", "base", "cosine_half"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--split", choices=["dev", "test", "fresh", "others", "more"], default="dev")
    parser.add_argument("--experiment", default="base", help="name of a group of runs")
    parser.add_argument("--layers", nargs="+", type=int, default=[0, 4, 8, 12])
    parser.add_argument("--start", default="", help="model to start from; {system} and {seed} are filled in")
    parser.add_argument("--pairs", type=int, default=0, help="train on so many pairs of speech translation")
    parser.add_argument("--beside", nargs="*", default=[], help="manifests in data/ beside these pairs")
    parser.add_argument("--batch", type=int, default=100, help="sentences answered at a time")
    parser.add_argument("--limit", type=int, help="decode so many sentences of each set; losses are of all")
    parser.add_argument("--configs", default="zero_shot", help="folder in docs/results/base")
    parser.add_argument("--dtype", default="float32", help="of the frozen weights that answer")
    parser.add_argument("--losses-only", action="store_true", help="decode nothing")
    parser.add_argument("--set", action="append", default=[], help="a setting of the training")
    parser.add_argument("--whisper", default="whisper-base-5s")
    parser.add_argument("--llm", default="runs/zero_shot/translator", help="beside it; not asked")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.verb == "translator":
        translator()
    elif chosen.verb == "bounds":
        bounds(chosen)
    elif chosen.pairs and "shuffled" in chosen.systems:
        raise ConfigError(
            "Of pairs of speech translation there are no shuffled transcripts.",
            got=f"--systems shuffled --pairs {chosen.pairs}",
            advice="Leave out --pairs, or shuffled.",
        )
    else:
        for seed in chosen.seeds:
            for name in chosen.systems:
                go(chosen, name, seed)


if __name__ == "__main__":
    main()
