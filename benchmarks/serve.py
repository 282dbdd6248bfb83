"""The service under load: one by one against all at once, and whether every answer is what it is alone.

    python benchmarks/serve.py        the shipped model on sentences of the demo's grammar (needs espeak-ng)

A real server (``aista serve``) in a process of its own; clients in this one. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import httpx
import numpy as np

from aista.audio.files import as_flac
from aista.demo.grammar import sentences
from aista.demo.speech import TEST_VARIANTS, draw_voice, utter

ENDPOINT = "/v1/audio/translations"


def clips(count: int) -> list[bytes]:
    """FLAC files of sentences in drawn voices."""
    found: list[bytes] = []
    for number, sentence in enumerate(sentences(2 * count, seed=5, split="test")):
        samples = utter(sentence.en, draw_voice(Random(number), TEST_VARIANTS), seed=number)
        if samples is not None and len(found) < count:
            found.append(as_flac(samples))
    return found


@dataclass
class Service:
    """A running server.

    Attributes:
        process: Its process.
        client: What asks it.
        slowest_health: Seconds that ``/health`` took at most, asked ten times a second.
    """

    process: subprocess.Popen[str]
    client: httpx.Client
    slowest_health: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self, clip: bytes, to: str) -> tuple[int, str]:
        """Return status and text of an answer; status 0 where the connection broke."""
        try:
            reply = self.client.post(ENDPOINT, files={"file": ("a.flac", clip)}, data={"to_language": to})
        except httpx.HTTPError:
            return 0, ""
        return reply.status_code, reply.json().get("text", "")

    def memory_mb(self) -> float:
        """Resident memory of the server."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return int(re.findall(r"VmRSS:\s+(\d+)", file.read())[0]) / 1024

    def cpu_seconds(self) -> float:
        """What the server has used of the processors so far: other load disturbs it less than the clock."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")")[-1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def watch_health(self) -> None:
        """Ask for health until the service ends."""
        limits = httpx.Limits(max_keepalive_connections=0)  # one kept alive may be closed as it is used
        with httpx.Client(base_url=self.client.base_url, timeout=60, limits=limits) as client:
            while not self.stopped.wait(0.1):
                start = time.perf_counter()
                client.get("/health").raise_for_status()
                self.slowest_health = max(self.slowest_health, time.perf_counter() - start)


@contextmanager
def served(*options: str) -> Iterator[Service]:
    """Run ``aista serve`` and wait until it answers."""
    command = [sys.executable, "-m", "aista", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    address = next(line.split()[-1] for line in process.stderr if line.startswith("Listening"))
    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    with httpx.Client(base_url=address, timeout=300, limits=limits) as client:
        client.get("/health").raise_for_status()
        try:
            yield Service(process, client)
        finally:
            process.terminate()
            process.wait(60)


@dataclass
class Turn:
    """What came of many requests.

    Attributes:
        answers: Status and text of each.
        per_second: Requests a second.
        cpu: Seconds of the server's processors that a request took.
        late: The 95th percentile of the seconds until an answer.
    """

    answers: list[tuple[int, str]]
    per_second: float
    cpu: float
    late: float


def turn(service: Service, jobs: list[tuple[bytes, str]], at_once: int) -> Turn:
    """Ask for everything, so many requests at once."""
    latencies = []

    def ask(job: tuple[bytes, str]) -> tuple[int, str]:
        start = time.perf_counter()
        answer = service.ask(*job)
        latencies.append(time.perf_counter() - start)
        return answer

    start, used = time.perf_counter(), service.cpu_seconds()
    with ThreadPoolExecutor(at_once) as threads:
        answers = list(threads.map(ask, jobs))
    seconds, used = time.perf_counter() - start, service.cpu_seconds() - used
    return Turn(answers, len(jobs) / seconds, used / len(jobs), float(np.quantile(latencies, 0.95)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=100, help="requests at once (default 100)")
    parser.add_argument(
        "--requests", type=int, default=1000, help="requests of the memory run (default 1000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of the two ways (default 3)")
    given = parser.parse_args()
    sounds = clips(given.clips)
    jobs = [(sound, "zh" if number % 2 else "ja") for number, sound in enumerate(sounds)]
    print(f"load before: {os.getloadavg()}, {os.cpu_count()} cores, {len(jobs)} clips, half zh, half ja")
    with served() as service:
        [service.ask(*job) for job in jobs[:4]]
        threading.Thread(target=service.watch_health, daemon=True).start()
        different = failed = 0
        print("| load | alone /s | together /s | ratio | 95 % by, s | CPU s alone | CPU s together | ratio |")
        print("|---|---|---|---|---|---|---|---|")
        for _ in range(given.rounds):
            alone, together = turn(service, jobs, 1), turn(service, jobs, len(jobs))
            different += sum(a != b for a, b in zip(alone.answers, together.answers, strict=True))
            failed += sum(status != 200 for status, _ in alone.answers + together.answers)
            row = [os.getloadavg()[0], alone.per_second, together.per_second]
            row += [together.per_second / alone.per_second, together.late]
            row += [alone.cpu, together.cpu, alone.cpu / together.cpu]
            print("|", " | ".join(f"{value:.3g}" for value in row), "|", flush=True)
        print(f"answers other than alone: {different} of {given.rounds * len(jobs)}; failed: {failed}")
        memory = [service.memory_mb()]
        for start in range(0, given.requests, 100):
            part = [jobs[number % len(jobs)] for number in range(start, start + 100)]
            failed += sum(status != 200 for status, _ in turn(service, part, 32).answers)
            memory.append(service.memory_mb())
        print(
            "memory in MB, every 100 requests:",
            " ".join(f"{value:.0f}" for value in memory),
            f"failed: {failed}",
        )
        service.stopped.set()
        print(f"slowest /health: {service.slowest_health:.3f} s")
        with ThreadPoolExecutor(len(jobs)) as threads:
            waiting = [threads.submit(service.ask, *job) for job in jobs]
            while (
                service.client.get("/health").json()["requests"] + sum(future.done() for future in waiting)
            ) < len(jobs):
                time.sleep(0.01)
            start = time.perf_counter()
            service.process.send_signal(signal.SIGTERM)
            answers = [future.result() for future in waiting]
        service.process.wait(60)
        lost = sum(status != 200 for status, _ in answers)
        wrong = sum(a != b for a, b in zip(alone.answers, answers, strict=True)) - lost
        print(
            f"SIGTERM with {len(jobs)} requests in the house: {lost} lost, {wrong} other than alone; "
            f"ended {time.perf_counter() - start:.1f} s later with {service.process.returncode}"
        )
    print(json.dumps({"different": different, "failed": failed, "lost": lost, "wrong": wrong}))


if __name__ == "__main__":
    main()
