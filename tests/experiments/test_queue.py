"""Laws of the queue: order, needs, failures that stay alone, a stop that lets everyone save."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aista import processes
from aista.config import SelectSettings
from aista.errors import ConfigError, TrainingError
from aista.experiments.demo import DemoPlan, run
from aista.experiments.plan import Job
from aista.experiments.runner import Command, Outcome, Queue, Runner, duration
from tests import tiny

FINISHED, RESULT, FAILED, BLOCKED = Outcome.FINISHED, Outcome.RESULT, Outcome.FAILED, Outcome.BLOCKED


def job(folder: Path, name: str, code: str = "", *needs: str, **changes: object) -> Command:
    """A command that notes its name in a file shared by all."""
    noted = f"open({str(folder / 'order')!r}, 'a').write({name!r}); {code}"
    return Command(
        name, "python", (sys.executable, "-S", "-c", noted), folder / f"{name}.log", needs, **changes
    )


def order(folder: Path) -> str:
    return (folder / "order").read_text() if (folder / "order").exists() else ""


def test_jobs_run_in_order_and_after_what_they_need(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "b", "", "a"), job(tmp_path, "a"), job(tmp_path, "c")]
    assert Queue(jobs, 1).run() == {"a": FINISHED, "b": FINISHED, "c": FINISHED}
    assert order(tmp_path) in ("abc", "acb")


def test_a_failure_stays_alone_and_is_shown(tmp_path: Path, capsys) -> None:
    jobs = [
        job(tmp_path, "a", "raise SystemExit('the sky fell')"), job(tmp_path, "b", "", "a"),
        job(tmp_path, "c", "", "b"), job(tmp_path, "d"),
    ]  # fmt: skip
    assert Queue(jobs, 2).run() == {"a": FAILED, "b": BLOCKED, "c": BLOCKED, "d": FINISHED}
    assert "the sky fell" in capsys.readouterr().out


def test_failing_can_be_the_result(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "a", "raise SystemExit('not finite')", is_result=lambda tail: "not finite" in tail),
        job(tmp_path, "b", "", "a"),
    ]  # fmt: skip
    assert Queue(jobs, 2).run() == {"a": RESULT, "b": RESULT}
    assert order(tmp_path) == "a"


def test_what_has_ended_is_not_repeated(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", already=lambda: FINISHED), job(tmp_path, "b", "", "a")]
    assert Queue(jobs, 1).run() == {"a": FINISHED, "b": FINISHED}
    assert order(tmp_path) == "b"


def test_remaining_time_follows_from_what_finished(tmp_path: Path) -> None:
    jobs = [job(tmp_path, name) for name in "abcd"]
    queue = Queue(jobs, 2, seconds={"a": 100.0}, guesses={"python": 10.0})
    assert queue.remaining_seconds() == 4 * 10 / 2
    queue.outcomes["a"] = FINISHED
    assert queue.remaining_seconds() == 3 * 100 / 2
    assert [duration(s) for s in (5, 200, 7200)] == ["5 s", "3 min", "2.0 h"]


def test_a_progress_bar_tells_how_long_it_will_take(tmp_path: Path) -> None:
    enough = tmp_path / "enough"  # the job ends when its bar has been looked at, however slow the machine is
    bar = "import os, sys, time; sys.stderr.write('  5%|    | 20/400 [00:01<00:19, 20it/s]')"
    wait = f"[time.sleep(0.05) for _ in range(600) if not os.path.exists({str(enough)!r})]"
    slow = job(tmp_path, "a", f"{bar}; {wait}", is_steady=True)
    queue, seen = Queue([slow, job(tmp_path, "b", "", "a")], 1, guesses={"python": 3.0}), []

    def look(*_: object) -> None:
        seen.append(queue.remaining_seconds())
        if seen[-1] > 20.0:
            enough.touch()

    queue._show = look
    queue.run()
    assert seen[0] <= 2 * 3.0 < 20.0 < max(seen)  # a twentieth is done after a second: not three in all


class Broken(DemoPlan):
    """A demo whose only job cannot succeed."""

    def prepare(self, clock: object) -> None:
        return

    def jobs(self) -> list[Job]:
        settings = SelectSettings(output=str(self.folder / "o"), model="no/such/model", data=["d.jsonl"])
        return [Job("select", "select", settings)]


@pytest.mark.slow
def test_a_failed_stage_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no/such/model") as caught:
        run(Broken(tmp_path))
    assert caught.value.what == "`aista select` failed."


class Hopeless(Broken):
    """A sweep whose only training cannot begin."""

    steps = 2

    def jobs(self) -> list[Job]:
        settings = tiny.joint_settings(self.folder, "no/such/model", train={"max_steps": self.steps})
        return [Job("joint", "joint", settings)]


def test_what_is_written_of_a_run_is_what_it_was_made_from(tmp_path: Path) -> None:
    plan = Hopeless(tmp_path)
    [job] = plan.jobs()
    told = [job.settings.sha256()]
    Runner(plan, workers=0).run()
    plan.steps = 3  # nothing was done yet: the note is of the next attempt
    told.append(plan.jobs()[0].settings.sha256())
    Runner(plan, workers=0).run()
    note = (job.output / "provenance.yaml").read_text()
    assert told[1] in note and told[0] not in note
    (job.output / "history.json").write_text("{}")
    plan.steps = 4
    Runner(plan, workers=0).run()
    assert (job.output / "provenance.yaml").read_text() == note


def test_nothing_is_launched_without_workers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--workers 1"):
        Runner(Broken(tmp_path), workers=0, launch=("torchrun", "-m", "aista"))


def test_a_scale_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="demo, nano"):
        DemoPlan(tmp_path, "big")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="who started whom is read from /proc")
def test_what_does_not_stop_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun starts its processes in sessions of their own: they kept GPUs and folder."""
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    started = [sys.executable, "-S", "-c", f"{deaf}; time.sleep(300)"]
    code = f"""{deaf}
import os, subprocess
child = subprocess.Popen({started!r}, start_new_session=True)
open({str(tmp_path / "draft")!r}, "w").write(str(child.pid))
os.rename({str(tmp_path / "draft")!r}, {str(tmp_path / "child")!r})
time.sleep(300)"""
    queue = Queue([job(tmp_path, "a", code)], 1)

    def interrupt(*_: object) -> None:
        if (tmp_path / "child").exists():
            raise KeyboardInterrupt

    queue._show = interrupt
    monkeypatch.setattr("aista.experiments.runner._PATIENCE_SECONDS", 0.5)
    with pytest.raises(KeyboardInterrupt):
        queue.run()
    about = Path("/proc", (tmp_path / "child").read_text(), "status")
    for _ in range(200):
        if not about.exists() or "\nState:\tZ" in about.read_text():
            return
        time.sleep(0.1)
    pytest.fail("what the job had started lives on")


def test_a_launcher_waits_as_long_as_the_queue_for_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun, which passes a signal on, kills after 30 s unless it is told."""
    name = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    monkeypatch.delenv(name, raising=False)
    code = f"import os; open({str(tmp_path / 'told')!r}, 'w').write(os.environ[{name!r}])"
    for wanted in ("100", "600"):
        Queue([job(tmp_path, wanted, code)], 1).run()
        assert (tmp_path / "told").read_text() == wanted
        monkeypatch.setenv(name, "600")


@pytest.mark.parametrize("asked", [None, "1", "4,2"])
def test_a_command_may_have_every_core_or_the_threads_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    script = "import os; open({!r}, 'w').write(os.environ['OMP_NUM_THREADS'])"

    def arguments(name: str) -> tuple[str, ...]:
        return (sys.executable, "-S", "-c", script.format(str(tmp_path / name)))

    commands = [
        Command(name, "k", arguments(name), tmp_path / f"{name}.log", all_cores=alone)
        for name, alone in (("one", False), ("all", True))
    ]  # fmt: skip
    Queue(commands, 2).run()
    cores = processes.cores()
    wanted = [1, 1] if asked == "1" else [max(1, cores // 2), cores]
    assert [int((tmp_path / name).read_text()) for name in ("one", "all")] == wanted


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an operating system that binds cores")
def test_a_run_bound_to_one_core_takes_one() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "from aista import processes; print(processes.cores())"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1"]


STOPPED = """
import signal, sys, time
from pathlib import Path
from aista.experiments.runner import Command, Queue
folder = Path(sys.argv[1])
child = '''
import signal, sys, time
from pathlib import Path
calls = []
def save(*_):
    calls.append(1)
signal.signal(signal.SIGINT, save)
Path(sys.argv[1] + ".ready").touch()
while not calls:
    time.sleep(0.01)
time.sleep(0.3)
Path(sys.argv[1] + ".saved").write_text(str(len(calls)))
sys.exit(130)
'''
def command(n):
    return Command(n, "k", (sys.executable, "-S", "-c", child, str(folder / n)), folder / f"{n}.log")
jobs = [command(n) for n in "ab"]
try:
    Queue(jobs, 2).run()
except KeyboardInterrupt:
    sys.exit(77)
"""


def test_a_signal_lets_every_process_save(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # as in the background of a shell, where Ctrl-C is ignored and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"{name}.ready").exists() for name in "ab") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # the whole foreground group, as a terminal does
    assert process.wait(60) == 77
    assert [(tmp_path / f"{name}.saved").read_text() for name in "ab"] == ["1", "1"]
