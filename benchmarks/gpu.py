"""The paper's sizes on a GPU, in one command.

    python benchmarks/gpu.py --minutes 25 --output runs/gpu     on a GPU
    python benchmarks/gpu.py --tiny --output /tmp/gpu           every line of it on a CPU, in seconds

The measurements (``gpu_measures.MEASUREMENTS``) run in order of worth. Each is written to ``gpu.json`` as
soon as it is done, and has a limit in seconds: a process does the work, and this one ends it when its limit
has passed and goes on with the next. The same command again skips what is done, unless the sizes, the card,
torch or the sources are others. Sizes shrink to the card's memory, and on "out of memory" the batch is
halved; ``notes`` of a measurement says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNNING = "gpu.json", "running.json"
START_SECONDS = 600  # a worker has come to its first measurement in less
LEAST_SECONDS = 20  # with less left no measurement is begun


def write(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
    os.replace(partial, path)


def read(path: Path) -> dict[str, Any]:
    """Read JSON; nothing where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record(folder: Path, name: str, row: dict[str, Any]) -> None:
    """Put one measurement into the results."""
    results = read(folder / RESULTS)
    results.setdefault("measurements", {})[name] = row
    write(folder / RESULTS, results)
    print(f"{name}: {row['status']} after {row['seconds']:.1f} s", *row["notes"], sep="\n  ", flush=True)


def code_version() -> str:
    """Return a digest of the sources that results depend on."""
    digest = hashlib.sha256()
    for place in ("src/aista", "benchmarks", "tests/gpu"):
        for path in sorted((ROOT / place).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """Return the commit, or ``unknown`` outside a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


# ---- the process that measures ----


def work(folder: Path, tiny: bool, deadline: float, passed_over: list[str]) -> None:
    """Run what is not done yet, in order; ``deadline`` is a time of ``time.time``."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]
    import torch
    from gpu_measures import MEASUREMENTS, Bench

    bench = Bench(tiny)
    key = json.loads(json.dumps({**bench.settings(), "code": code_version()}))  # as it is read back
    results = read(folder / RESULTS)
    results |= {"date": datetime.now().isoformat(timespec="seconds"), "commit": commit(), **bench.about()}
    results["command"] = "python benchmarks/gpu.py" + (" --tiny" if tiny else "")
    write(folder / RESULTS, results)
    for name, measurement in MEASUREMENTS.items():
        done = read(folder / RESULTS).get("measurements", {}).get(name, {})
        if name in passed_over or (done.get("status") == "done" and done.get("key") == key):
            continue
        # Tiny sizes take seconds, but on a busy machine nobody knows how many.
        seconds = min(measurement.limit_seconds * (10 if tiny else 1), deadline - time.time())
        if seconds < LEAST_SECONDS:
            print(f"{name}: no time is left for it", flush=True)
            break
        write(folder / RUNNING, {"name": name, "until": time.time() + seconds})
        bench.notes, bench.deadline, start = list(bench.shrunk), time.monotonic() + seconds, time.monotonic()
        row: dict[str, Any] = {"status": "done"}
        try:
            figures = measurement.run(bench)
            json.dumps(figures, allow_nan=False)  # a loss that is not finite is a failure
            row["figures"] = figures
        except Exception as error:  # one measurement's failure must not cost the others
            row["status"] = "failed"
            bench.notes.append(f"{type(error).__name__}: {str(error)[:2000]}")
        row |= {"seconds": time.monotonic() - start, "notes": bench.notes, "key": key, "call": deadline}
        record(folder, name, row)
        (folder / RUNNING).unlink()
        if row["status"] == "failed":
            if torch.cuda.is_available():  # what a failure left on the card goes with its process
                sys.exit(3)
            passed_over.append(name)


# ---- the process that watches ----


def watch(folder: Path, tiny: bool, minutes: float) -> int:
    """Let a worker measure; end it when a measurement's time has passed, and start another for the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline, passed_over = time.time() + 60 * minutes, list[str]()
    while time.time() < deadline - LEAST_SECONDS:
        (folder / RUNNING).unlink(missing_ok=True)
        command = [sys.executable, __file__, "--output", str(folder), "--worker-until", str(deadline)]
        worker = subprocess.Popen(
            [*command, *(["--tiny"] if tiny else []), *(f"--pass-over={name}" for name in passed_over)],
            start_new_session=True,
        )
        try:
            code = _attend(worker, folder, deadline)
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        if code == 0:
            break
        rows = read(folder / RESULTS).get("measurements", {})
        failed = [
            name for name, row in rows.items() if (row["status"], row.get("call")) == ("failed", deadline)
        ]
        if failed == passed_over:
            print("The worker ended before its first measurement.", file=sys.stderr)
            return 1
        passed_over = failed
    rows = read(folder / RESULTS).get("measurements", {})
    return 0 if rows and all(row["status"] == "done" for row in rows.values()) else 1


def _attend(worker: subprocess.Popen, folder: Path, deadline: float) -> int | None:
    """Wait until a worker ends or its measurement's time has passed, and record what it did not end itself.

    Returns:
        Its exit code; None while it is still running.
    """
    running: dict[str, Any] = {}
    starting_until = min(time.time() + START_SECONDS, deadline)
    begun: dict[str, float] = {}
    while worker.poll() is None:
        time.sleep(0.2)
        running = read(folder / RUNNING) or running
        if running:
            begun.setdefault(running["name"], time.time())
        until = running["until"] if running else starting_until
        if time.time() > until + 5 and (not running or (folder / RUNNING).exists()):
            break
    running = read(folder / RUNNING)
    if running:  # it did not come to its end
        code, seconds = worker.poll(), time.time() - begun.get(running["name"], time.time())
        said = "stopped: its time had passed" if code is None else f"the process died with code {code}"
        row = {"status": "failed", "seconds": seconds, "notes": [said], "call": deadline}
        record(folder, running["name"], row)
    return worker.poll()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--output", type=Path, required=True, help="Folder of gpu.json.")
    parser.add_argument("--tiny", action="store_true", help="Tiny sizes: every line runs, no number counts.")
    parser.add_argument("--worker-until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--pass-over", action="append", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker_until is not None:
        work(options.output, options.tiny, options.worker_until, options.pass_over)
    else:
        sys.exit(watch(options.output, options.tiny, options.minutes))


if __name__ == "__main__":
    main()
