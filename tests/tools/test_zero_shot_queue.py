"""Every run of the queue can begin: what it starts from is an earlier run of the queue."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import pytest

from tools import zero_shot_base, zero_shot_queue
from tools.zero_shot_queue import Job, jobs, work

CHOSEN = argparse.Namespace(
    configs="mixed", rows=16, split="dev", batch=4, limit=None, experiment="gpu", seeds=[1, 2, 3, 4], steps=3,
    align_steps=3, few=2,
)  # fmt: skip


def folder(job: Job) -> Path:
    told = dict(pairwise(job.arguments))
    return zero_shot_base.HOME / "runs" / told["--experiment"] / told["--systems"] / f"seed_{told['--seeds']}"


def test_every_run_starts_from_an_earlier_one() -> None:
    listed = list(jobs(CHOSEN))
    made = set[Path]()
    for job in listed:
        assert job.needs is None or job.needs in made
        start = dict(pairwise(job.arguments)).get("--start", "")
        if start:
            assert Path(start) == job.needs
        assert folder(job) == job.folder
        made.add(job.folder)
    assert len(made) == len(listed) == 4 + 8 + 8 + 6 + 18 + 12


def test_each_is_run_once_in_order_and_a_failure_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = list[str]()

    def run(arguments: list[str]) -> None:
        ran.append(arguments[0])
        if arguments[0] == "b":
            raise RuntimeError("lost")
        (tmp_path / arguments[0]).mkdir()
        (tmp_path / arguments[0] / "training.json").touch()

    monkeypatch.setattr(zero_shot_base, "main", run)
    monkeypatch.setattr(zero_shot_queue.os, "dup2", lambda *_: None)
    needs = {"c": "a", "a": None, "b": None, "d": "b", "e": "d"}
    waiting = [
        Job(name, tmp_path / name, tmp_path / first if first else None, [name])
        for name, first in needs.items()
    ]
    logs = tmp_path / "logs"
    logs.mkdir()
    work(0, waiting, logs, until=float("inf"))
    assert ran == ["a", "c", "b"]  # nothing starts from what failed
    assert [path.parent.name for path in logs.glob("*/failed")] == ["b"]


def test_workers_side_by_side_run_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(arguments: list[str]) -> None:
        made = folder(Job("", Path(), None, arguments))
        made.mkdir(parents=True)  # a second time it is there
        start = dict(pairwise(arguments)).get("--start", "")
        assert not start or Path(start).is_dir()
        (made / "training.json").touch()

    monkeypatch.setattr(zero_shot_base, "main", run)
    with pytest.raises(SystemExit) as end:
        zero_shot_queue.main(["--workers", "3", "--seeds", "7", "--minutes", "1"])
    assert end.value.code == 0
    assert "17 of 17 runs, failed: none" in capsys.readouterr().out
    assert len(list((zero_shot_base.HOME / "runs").glob("*/*/seed_7/training.json"))) == 17
