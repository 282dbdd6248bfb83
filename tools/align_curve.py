"""Held-out MRR of alignment first over the CPU seconds that its training took, by seed and similarity.

    python tools/align_curve.py --config docs/results/base/align.yaml --seeds 1 2 3 \\
        --similarities wasserstein maxsim mean --output docs/results/base/align.jsonl
    python tools/align_curve.py --draw docs/findings/align-first.svg --output docs/results/base/align.jsonl

One row a validation. Loading, encoding (once, into the feature store) and validation are not counted. What
stands in the output, with as many rows and steps, is not run again; a run that was interrupted starts anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from aista.config import AlignSettings
from aista.data.manifest import Manifest
from aista.figures import NARROW, Canvas, colour
from aista.training.stages import align
from aista.training.trainer import AlignTrainer

ROLES = {"wasserstein": "system", "maxsim": "base", "mean": "hue0"}
NAMES = {
    "wasserstein": "exact Wasserstein",
    "maxsim": "MaxSim",
    "mean": "cosine of means",
}


def main() -> None:
    """Run what is not there yet, or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--similarities", nargs="+", default=["wasserstein"], choices=[*NAMES])
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--draw", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.draw is not None:
        chosen.draw.write_text(draw(rows_of(chosen.output)).standalone())
        return
    for similarity in chosen.similarities:
        for seed in chosen.seeds:
            settings = AlignSettings.load(chosen.config, [*chosen.changes, f"seed={seed}"])
            num_train = sum(len(Manifest(path)) for path in settings.data.train)
            run = (similarity, seed, num_train, settings.train.max_steps)
            if any(tuple(map(row.get, _KEY)) == run for row in rows_of(chosen.output)):
                continue
            rows = measured(settings, similarity, seed, num_train)
            chosen.output.parent.mkdir(parents=True, exist_ok=True)
            with chosen.output.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            print(similarity, seed, [(row["cpu_seconds"], row["mrr"]) for row in rows], flush=True)


_KEY = ("similarity", "seed", "num_train", "max_steps")


def measured(settings: AlignSettings, similarity: str, seed: int, num_train: int) -> list[dict[str, Any]]:
    """Align once from new weights and return a row for every validation."""
    folder = (
        f"{settings.output}-{seed}"
        if similarity == "wasserstein"
        else f"{settings.output}-{similarity}-{seed}"
    )
    options = {**settings.alignment.options, "similarity": similarity}
    if similarity != "wasserstein":
        options["cost"] = "cosine"
    alignment = settings.alignment.model_copy(update={"options": options})
    settings = settings.model_copy(update={"output": folder, "alignment": alignment})
    shutil.rmtree(folder, ignore_errors=True)
    rows: list[dict[str, Any]] = []

    class Timed(AlignTrainer):
        uncounted = 0.0

        def train(self, *inputs: Any, **named: Any) -> Any:
            self.uncounted = time.process_time()
            return super().train(*inputs, **named)

        def validation_metrics(self) -> dict[str, float]:
            now = time.process_time()
            found = super().validation_metrics()
            rows.append(
                {
                    "experiment": "align", "num_train": num_train, "max_steps": settings.train.max_steps,
                    "similarity": similarity, "seed": seed,
                    "step": self.state.global_step, "cpu_seconds": round(now - self.uncounted, 1),
                    "mrr": round(found["mrr"], 4), "mrr_by_chance": round(found["mrr_by_chance"], 4),
                }
            )  # fmt: skip
            self.uncounted += time.process_time() - now
            return found

    align(settings, trainer=Timed)
    return rows


def draw(rows: list[dict[str, Any]]) -> Canvas:
    """MRR over CPU seconds, a line a seed."""
    names = [name for name in NAMES if any(row["similarity"] == name for row in rows)]
    last = max(row["cpu_seconds"] for row in rows)
    canvas = Canvas(NARROW, 300, "held-out MRR over CPU seconds of training")
    area = canvas.axes(44, 62, NARROW - 60, 190, (0, last * 1.02), (0, 1.02))
    ticks = range(0, int(last) + 1, 30 if last < 200 else 60)
    area.set_xticks([*ticks], [str(tick) for tick in ticks])
    area.set_yticks([0, 0.25, 0.5, 0.75, 0.95], ["0", ".25", ".5", ".75", ".95"])
    area.yaxis.grid(True, color=colour("rule"), linewidth=1)
    for i, name in enumerate(names):
        canvas.dot(49 + i * 112, 12, ROLES[name], size=7)
        canvas.text(58 + i * 112, 16, NAMES[name], ROLES[name], font="small")
        here = [row for row in rows if row["similarity"] == name]
        for run in sorted({(row["num_train"], row["max_steps"], row["seed"]) for row in here}):
            line = [row for row in here if (row["num_train"], row["max_steps"], row["seed"]) == run]
            points = [row["cpu_seconds"] for row in line], [row["mrr"] for row in line]
            area.plot(*points, color=colour(ROLES[name]), linewidth=1.5, alpha=0.8)
    area.axhline(rows[0]["mrr_by_chance"], color=colour("line"), linewidth=1.0, linestyle=(0, (1, 2)))
    canvas.text(44, 46, "mean reciprocal rank, held-out pairs")
    canvas.text(NARROW / 2, 292, "CPU seconds of training", anchor="center")
    return canvas


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []


if __name__ == "__main__":
    main()
