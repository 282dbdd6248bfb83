"""Everything the package ships, made from nothing at nano scale, and the demo on top of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.standins.__main__ import app


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_from_nothing_to_a_finished_model_and_its_card(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    build = CliRunner().invoke(app, ["build", "--scale", "nano", "--output", str(tmp_path / "demo/build")])
    assert build.exit_code == 0, build.output[-3000:] + str(build.exception)
    card = (tmp_path / "demo/build/model/README.md").read_text()
    assert "| bleu_zh |" in card and "python -m tools.standins build" in card and "{" not in card
    whisper = tmp_path / "demo/build/whisper/model.safetensors"
    before = whisper.stat().st_mtime_ns
    demo = CliRunner().invoke(app, ["demo", "--scale", "nano", "--output", str(tmp_path / "demo")])
    assert demo.exit_code == 0, demo.output[-3000:] + str(demo.exception)
    assert whisper.stat().st_mtime_ns == before
    results = json.loads((tmp_path / "demo/results.json").read_text())
    assert results["stage1"] == str(tmp_path / "demo/build/stage1") and results["systems"]["base"]
