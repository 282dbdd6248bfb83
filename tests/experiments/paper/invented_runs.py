"""Run folders as a sweep leaves them, with texts and losses that were made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from aista.evaluation import metrics
from aista.evaluation.decode import Hypothesis
from aista.experiments.paper.systems import Backbone, Context, Run, Scope, chosen_names, has_diverged, systems

BACKBONES = (
    Backbone("qwen2", "Qwen2 stand-in", "aista:stage1", "Qwen2-7B"),
    Backbone("llama", "Llama stand-in", "aista:stage1_llama", "Vicuna-13B"),
)
SENTENCES = {
    "zh": ["画家没弄坏这块手表。", "医院里有一匹黑色的马。", "我们昨天走路回家。", "他有七本红色的书。"],
    "ja": ["画家はこの腕時計を壊しませんでした。", "病院に黒い馬がいます。",
           "昨日歩いて帰りました。", "赤い本が七冊あります。"],
}  # fmt: skip
FALLING = [2.0 - i * 0.015 for i in range(100)]


def plan(root: Path, *names: str, seeds: int = 1, **changes: object) -> Scope:
    """A plan over two backbones of six blocks."""
    values = {
        "names": chosen_names(names or ["all"]), "backbones": BACKBONES, "systems": systems(6),
        "seeds": tuple(range(1, seeds + 1)), "root": root,
    }  # fmt: skip
    return Scope(**{**values, **changes})


def train(run: Run, losses: Sequence[float] = tuple(FALLING)) -> None:
    """Leave the traces of a training."""
    run.model.mkdir(parents=True, exist_ok=True)
    rows = [{"step": i, "ce": loss} for i, loss in enumerate(losses)]
    (run.model / "history.json").write_text(json.dumps(rows))
    (run.model / "training.json").write_text(json.dumps({"steps": len(rows), "seconds": 1.0}))


def evaluate(run: Run, wrong: int = 0) -> dict[str, float]:
    """Leave the traces of an evaluation in which the first ``wrong`` sentences lost their head."""
    run.evaluation.mkdir(parents=True, exist_ok=True)
    scores, signatures = {"token_accuracy": 90.0 - wrong, "log_wasserstein": 6.0 + wrong}, {}
    for kind, task, prefix in (("speech", "st", ""), ("text", "mt", "mt_")):
        rows = []
        for code, references in SENTENCES.items():
            answers = [text[3:] if i < wrong else text for i, text in enumerate(references)]
            score = metrics.bleu(answers, references, code)
            scores[f"{prefix}bleu_{code}"], signatures[f"{prefix}bleu_{code}"] = score.value, score.signature
            rows += [
                Hypothesis(f"{i}-{code}", task, code, answer, reference, "source")
                for i, (answer, reference) in enumerate(zip(answers, references, strict=True))
            ]
        lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        (run.evaluation / f"test.{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
    results = {
        "scores": scores, "signatures": signatures, "warnings": [], "settings": {},
        "by_set": {"test": {"scores": scores, "num_utterances": 8}},
    }  # fmt: skip
    (run.evaluation / "results.json").write_text(json.dumps(results))
    return scores


def context(made: Scope) -> Context:
    """What a sweep would hand to the tables."""
    done = [run for run in made.runs() if (run.evaluation / "results.json").exists()]
    return Context(
        folder=made.root,
        scope=made,
        runs=[run for run in done if not has_diverged(run)],
        diverged=[run for run in made.runs() if has_diverged(run)],
    )
