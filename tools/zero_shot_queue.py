"""The runs of the zero-shot experiment at base scale, side by side on one GPU.

    python tools/zero_shot_queue.py --workers 12 --minutes 7
    python tools/zero_shot_queue.py --workers 1 --seeds 61 --steps 3 --align-steps 3 --few 2 --split dev

Each run is a job that begins when the model it starts from is there; workers take the first that can begin.
Jobs stand in the order of their worth: an ear a seed, base and Wasserstein, 200 pairs, controls, other
numbers of pairs, other objectives. What is finished is not run again; logs lie in ``runs/zero_shot/logs``.
Small steps leave most of a GPU idle, and a process of its own hides each run's Python.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of a script only its own folder is there
from tools import zero_shot_base

FOLDER = zero_shot_base.HOME
PAIRED = ("base", "cosine_half")
CONTROLS, OBJECTIVES = ("shuffled", "uniform"), ("retrieval", "distillation", "maxsim", "mean")
EXPLORED = 3  # seeds of what is exploration


@dataclass(frozen=True)
class Job:
    """One run: its name, its folder, the run that it starts from, and what ``zero_shot_base`` is told."""

    name: str
    folder: Path
    needs: Path | None
    arguments: list[str]


def jobs(chosen: argparse.Namespace) -> Iterator[Job]:
    """Yield all runs in the order of their worth."""
    common = ["run", "--configs", chosen.configs, "--dtype", "bfloat16", "--split", chosen.split]
    common += ["--batch", str(chosen.batch), *(["--limit", str(chosen.limit)] if chosen.limit else [])]
    group, few = chosen.experiment, chosen.seeds[:EXPLORED]

    def model(system: str, seed: int, experiment: str = group) -> Path:
        return FOLDER / "runs" / experiment / system / f"seed_{seed}"

    def job(experiment: str, system: str, seed: int, needs: Path | None, steps: int, *more: str) -> Job:
        lengths = {"max_steps": steps, "save_steps": steps, "warmup_steps": min(20, steps - 1)}
        if system != "aligned":
            lengths["per_device_train_batch_size"] = chosen.rows
        settings = [f"--set=train.{key}={value}" for key, value in lengths.items()]
        about = ["--experiment", experiment, "--systems", system, "--seeds", str(seed), *settings]
        folder = model(system, seed, experiment)
        return Job(f"{experiment}-{system}-{seed}", folder, needs, [*common, *about, *more])

    def from_pairs(pairs: int, system: str, seed: int, steps: int) -> Job:
        start = ["--start", str(model(system, seed))]
        data = ["--pairs", str(pairs), "--beside", "train.asr", "text", "--set=data.weights=[2,1,1]"]
        return job(f"{group}{pairs}", system, seed, model(system, seed), steps, *start, *data)

    for seed in chosen.seeds:
        answers = [] if seed in few else ["--losses-only"]
        check = f"--set=train.eval_steps={min(100, chosen.align_steps)}"
        yield job(group, "aligned", seed, None, chosen.align_steps, check, *answers)
    for seed in chosen.seeds:
        for system in PAIRED:
            yield job(group, system, seed, model("aligned", seed), chosen.steps)
    for seed in chosen.seeds:
        for system in PAIRED:
            yield from_pairs(200, system, seed, chosen.few)
    for system in CONTROLS:
        for seed in few:
            yield job(group, system, seed, model("aligned", seed), chosen.steps)
    for pairs in (800, 50, 3200):
        for seed in few:
            for system in PAIRED:
                yield from_pairs(pairs, system, seed, chosen.few * (2 if pairs == 3200 else 1))
    for system in OBJECTIVES:
        for seed in few:
            yield job(group, system, seed, model("aligned", seed), chosen.steps)


def work(number: int, waiting: Sequence[Job], logs: Path, until: float) -> None:
    """Run what nobody has begun, one job after the other, into a log of this worker's own."""
    log = os.open(logs / f"{os.getpid()}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    while time.time() < until:
        lost = set[Path]()  # what failed, and all that would start from it: that stands after it
        for job in waiting:
            if job.needs in lost or (logs / job.name / "failed").exists():
                lost.add(job.folder)
        left = [job for job in waiting if not (logs / job.name).exists() and job.folder not in lost]
        ready = [job for job in left if job.needs is None or (job.needs / "training.json").exists()]
        if not left:
            return
        if not ready:
            time.sleep(0.5)
            continue
        try:
            (logs / ready[0].name).mkdir()
        except FileExistsError:
            continue
        start = time.time()
        try:
            zero_shot_base.main(ready[0].arguments)
        except Exception:  # one run's failure must not cost the others
            traceback.print_exc()
            (logs / ready[0].name / "failed").touch()
        print(f"worker {number}: {ready[0].name} {time.time() - start:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, as far as time goes; what was begun is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=60, help="after these no run is begun")
    parser.add_argument("--seeds", nargs="+", type=int, default=[61, 62, 63, 64, 65, 66])
    parser.add_argument("--experiment", default="gpu")
    parser.add_argument("--configs", default="mixed", help="folder in docs/results/base")
    parser.add_argument("--rows", type=int, default=16, help="rows a step, but for alignment first")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--align-steps", type=int, default=400)
    parser.add_argument("--few", type=int, default=200, help="steps from pairs of speech translation")
    parser.add_argument("--split", choices=["dev", "test", "fresh"], default="fresh")
    parser.add_argument("--batch", type=int, default=400)
    parser.add_argument("--limit", type=int)
    chosen = parser.parse_args(arguments)
    waiting, until = list(jobs(chosen)), time.time() + 60 * chosen.minutes
    logs = FOLDER / "logs" / time.strftime("%Y%m%d-%H%M%S")  # what an earlier call left undone is tried again
    logs.mkdir(parents=True)
    fork = multiprocessing.get_context("fork")  # what was imported is not imported again
    workers = [
        fork.Process(target=work, args=(number, waiting, logs, until)) for number in range(chosen.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = sorted(path.parent.name for path in logs.glob("*/failed"))
    print(f"{len(list(logs.glob('*/')))} of {len(waiting)} runs, failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
