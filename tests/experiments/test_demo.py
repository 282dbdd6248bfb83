"""The whole demo at nano scale, as a user starts it; Ctrl-C and the same command again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.experiments.test_demo_page import checked

COMMAND = (sys.executable, "-m", "aista", "demo", "--scale", "nano", "--output")
SYSTEM = {"bleu_zh", "bleu_ja", "mt_bleu_zh", "mt_bleu_ja", "log_wasserstein", "token_accuracy"}
SECONDS = {"synthesis", "select", "joint_base", "joint_ai_sta", "evaluate", "total"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo that was interrupted once and then went on to its end."""
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("demo") / "run"
    first = subprocess.Popen(
        [*COMMAND, folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A runner in the background may ignore Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(1500):
        if (folder / "select/layers.json").exists() or first.poll() is not None:
            break
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)
    first.wait(timeout=120)
    assert first.returncode != 0 and not (folder / "results.json").exists()
    kept = (folder / "select/layers.json").stat().st_mtime_ns
    again = subprocess.run([*COMMAND, folder], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-4000:]
    assert (folder / "select/layers.json").stat().st_mtime_ns == kept
    return folder, again.stdout


@pytest.mark.slow
def test_results_hold_what_they_promise(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["selected_layers"] and results["num_pairs"] == 8
    assert len(results["mrr_by_layer"]) == len(results["mean_distance_by_layer"])
    assert results["chance_mrr"] == pytest.approx(sum(1 / r for r in range(1, 9)) / 8)
    for name in ("base", "ai_sta"):
        assert results["systems"][name].keys() >= SYSTEM
        assert results["untaught"]["steps"][name] > 0
        assert results["untaught"]["systems"][name].keys() >= {"bleu_zh", "bleu_ja", "wer_en"}
    assert results["seconds"].keys() >= SECONDS
    assert "tok:zh" in results["bleu_signature"]["bleu_zh"]
    assert "ja-mecab" in results["bleu_signature"]["bleu_ja"]
    assert re.fullmatch(r"[0-9a-f]{64}", results["config_sha256"]) and "torch" in results["versions"]


@pytest.mark.slow
def test_base_and_ai_sta_differ_in_the_method_alone(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    lines = [(folder / name / "settings.yaml").read_text().splitlines() for name in ("base", "ai_sta")]
    differing = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
    assert [first.strip().split(":")[0] for first, _ in differing] == ["output", "method"]


@pytest.mark.slow
def test_the_report_needs_nothing_outside_itself(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<audio" in page and "<svg" in page
    checked(page)
    assert "Chinese" in printed and "BLEU" in printed


@pytest.mark.slow
def test_a_finished_demo_is_not_repeated(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/model.safetensors")}
    assert before
    subprocess.run([*COMMAND, folder], capture_output=True, check=True)
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/model.safetensors")}
