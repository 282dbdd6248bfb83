"""Seeing a run: its journal, its speed, and what ``aista monitor`` makes of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from aista.cli import monitor as monitor_verb
from aista.cli.monitor import curve, read, render, summary
from aista.errors import ConfigError, TrainingError
from aista.training.callbacks import PROGRESS, Journal, Meter
from aista.training.stages import joint, pretrain
from tests import tiny


def a_run(folder: Path, rows: list[dict[str, Any]], **train: Any) -> Path:
    """A run that is going on, as its folder shows it."""
    settings = {"init": "stage1", "train": {"max_steps": 1000, "patience": 4, **train}}
    (folder / "settings.yaml").write_text(json.dumps(settings))
    (folder / PROGRESS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows(steps: range, start: float, pace: float = 2.0) -> list[dict[str, Any]]:
    return [{"step": step, "time": start + pace * step, "ce": 5.0 / step} for step in steps]


def test_where_a_run_stands(tmp_path: Path) -> None:
    now = time.time()
    checks = [
        {"step": step, "time": now - 500 + 2 * step, "eval_token_accuracy": value}
        for step, value in ((50, 0.5), (100, 0.7), (150, 0.6), (200, 0.7))
    ]
    logged = sorted([*rows(range(10, 201, 10), now - 500), *checks], key=lambda row: row["step"])
    state = read(a_run(tmp_path, logged))
    assert (state.stage, state.step, state.total, state.finished) == ("joint", 200, 1000, False)
    assert state.seconds_per_step == pytest.approx(2.0)
    assert state.remaining_seconds == pytest.approx(1600)
    assert (state.best, state.best_step, state.checks_without_gain) == (0.7, 100, 2)
    said = "\n".join(summary(state))
    assert "running, last row 1 min 40 s ago" in said and "26 min 40 s to go" in said
    assert "best token accuracy 0.7000 at step 100; 2 checks since, stops after 4" in said


def test_a_pause_does_not_slow_the_pace_and_a_torn_row_is_passed_over(tmp_path: Path) -> None:
    now = time.time()
    logged = [*rows(range(10, 101, 10), now - 9_000), *rows(range(110, 201, 10), now - 410)]
    folder = a_run(tmp_path, logged)
    with (folder / PROGRESS).open("a") as file:
        file.write('{"step": 210, "ti')
    state = read(folder)
    assert state.step == 200 and state.seconds_per_step == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("pretrain", {"model": None, "init": "aligned", "alignment": {"method": "none", "alpha": 0.99}}),
        ("pretrain", {"model": {"backbone": "b"}, "init": None, "alignment": {"alpha": 0.99}}),
        ("align", {"model": {"backbone": "b"}, "init": None, "alignment": {"method": "retrieval"}}),
        ("joint", {"init": "stage1", "alignment": {"alpha": 0.99}}),
    ],
)
def test_the_stage_is_told_from_the_settings(tmp_path: Path, stage: str, settings: dict[str, Any]) -> None:
    folder = a_run(tmp_path, [{"step": 10, "time": 1.0, "eval_mrr": 0.5}])
    kept = yaml.safe_load((folder / "settings.yaml").read_text())
    (folder / "settings.yaml").write_text(yaml.safe_dump({"train": kept["train"], **settings}))
    found = read(folder)
    assert found.stage == stage and (found.best, found.measure) == (0.5, "MRR")
    assert "best MRR 0.5000 at step 10" in "\n".join(summary(found))


def test_the_checks_since_the_best_are_told_without_patience(tmp_path: Path) -> None:
    checks = [{"step": step, "eval_token_accuracy": 1 / step} for step in (10, 20, 30)]
    said = "\n".join(summary(read(a_run(tmp_path, checks, patience=None))))
    assert "at step 10; 2 checks since\n" in said + "\n" and "stops after" not in said


def test_a_silent_run_and_an_empty_one(tmp_path: Path) -> None:
    old = a_run(tmp_path, rows(range(10, 101, 10), time.time() - 86_400))
    assert "silent, perhaps stopped" in summary(read(old))[0]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "nothing logged yet" in summary(read(a_run(empty, [])))[0]
    with pytest.raises(TrainingError, match="no training run"):
        read(tmp_path / "nothing")


def test_a_resumed_journal_holds_every_step_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    for step in (1, 2, 3):
        state.global_step = step
        journal.on_log(None, state, None, {"ce": float(step)})  # type: ignore[arg-type]
    state.global_step = 2  # goes on from the checkpoint of step 2
    journal.on_train_begin(None, state, None)  # type: ignore[arg-type]
    state.global_step = 3
    journal.on_log(None, state, None, {"ce": 3.5})  # type: ignore[arg-type]
    found = [json.loads(line) for line in (tmp_path / PROGRESS).read_text().strip().split("\n")]
    assert [(row["step"], row["ce"]) for row in found] == [(1, 1.0), (2, 2.0), (3, 3.5)]


@pytest.mark.slow
def test_a_whole_run_is_seen_while_it_goes_on_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage1 = pretrain(tiny.pretrain_settings(tmp_path)).folder
    seen = []
    on_log = Journal.on_log

    def look(self: Journal, *args: Any, **kwargs: Any) -> None:
        on_log(self, *args, **kwargs)
        seen.append(read(self.path.parent))

    monkeypatch.setattr(Journal, "on_log", look)
    run = joint(tiny.joint_settings(tmp_path, str(stage1)))
    assert [state.step for state in seen] == [1, 2, 2, 3, 4, 4, 4]
    newest = seen[-1].newest
    for name in ("ce", "token_accuracy", "wasserstein_0", "wasserstein_1", "utterances_per_second"):
        assert newest[name] >= 0
    assert newest["tokens_per_second"] > newest["utterances_per_second"] > 0
    assert 0 <= newest["padding_waste"] < 1 and newest["memory_mb"] > 100
    assert not (run.folder / PROGRESS).exists()
    told = CliRunner().invoke(monitor_verb.app, [str(run.folder), "--follow"])
    assert told.exit_code == 0 and "finished" in told.output and "wasserstein_0" in told.output


def test_rows_go_to_tensorboard_and_unknown_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not installed: papyrus"):
        pretrain(tiny.pretrain_settings(tmp_path, report_to=["papyrus"]))
    assert not (tmp_path / "stage1").exists()  # the folder is still free for the corrected command
    pytest.importorskip("tensorboard")
    run = pretrain(tiny.pretrain_settings(tmp_path / "seen", report_to=["tensorboard"], max_steps=2))
    (events,) = run.folder.rglob("events.out.tfevents*")
    content = events.read_bytes()
    assert all(name in content for name in (b"train/ce", b"train/token_accuracy", b"train/padding_waste"))


def test_the_meter_counts_real_tokens() -> None:
    meter = Meter()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    meter.note(mask)
    meter.note(mask)
    assert meter.counts() == [4.0, 12.0, 16.0]
    meter.pause(-10.0)  # as if ten seconds had passed
    figures = meter.read()
    assert figures["utterances_per_second"] == pytest.approx(0.4, rel=0.01)
    assert figures["tokens_per_second"] == pytest.approx(1.2, rel=0.01)
    assert figures["padding_waste"] == 0.25
    assert meter.counts() == [0.0, 0.0, 0.0]


def test_curves() -> None:
    assert curve([(0, 0), (1, 1)], 2, 1) == ["⡠⠊"]
    assert curve([(5, 3.0)], 2, 1) == [chr(0x2800 + 0x40) + chr(0x2800)]
    flat = curve([(x, 1.0) for x in range(100)], 10, 3)
    assert flat[:2] == [chr(0x2800) * 10] * 2 and flat[2] == "⣀" * 10
    assert render(read_nothing(), 80)


def read_nothing() -> Any:
    from aista.cli.monitor import RunState

    return RunState(Path("x"), "joint", False, 0, 10)
