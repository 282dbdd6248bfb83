"""The tool that measures the retrieval curve, on tiny bases: every factor, controls, and going on."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from aista.training.stages import fresh_model
from tests import tiny

TOOLS = Path(__file__).parents[2] / "tools"
PROMPTS = ("none", "system_user")
EARS = ("saved", "untrained", "text")


def run(name: str, *arguments: str) -> None:
    """Run a tool as a command."""
    before, sys.argv = sys.argv, [name, *arguments]
    try:
        runpy.run_path(str(TOOLS / name), run_name="__main__")
    finally:
        sys.argv = before


def test_every_factor_is_measured_once_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny.pretrain_settings(tmp_path)
    model, processor = fresh_model(settings.model, seed=1)  # type: ignore[arg-type]
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    output = tmp_path / "curve.jsonl"
    arguments = (
        "--ear", f"saved={tmp_path / 'saved'}", "--ear", "untrained=untrained:2", "--ear", "text=translation",
        "--data", str(tiny.manifest(tmp_path / "st.jsonl")), "--pairs", "6", "--prompts", *PROMPTS,
        "--work", str(tmp_path / "work"), "--output", str(output),
    )  # fmt: skip
    run("retrieval_curve.py", *arguments)
    rows = [json.loads(line) for line in output.read_text().strip().split("\n")]
    found = [(row["prompt"], row["ear"], row["cloud"], row["layer"], row["cost"]) for row in rows]
    assert len(found) == len(set(found)) == len(PROMPTS) * len(EARS) * 2 * 3 * 3
    assert all(0 < row["mrr"] <= 1 and 0 < row["length_only_mrr"] <= 1 for row in rows)
    at_0 = {row["ear"]: row["mrr"] for row in rows if row["layer"] == 0 and row["cloud"] == "span"}
    assert set(at_0) == set(EARS)
    run("retrieval_curve.py", *arguments)  # nothing is measured again
    assert len(output.read_text().strip().split("\n")) == len(rows)
    renamed = output.read_text().replace('"ear": "saved"', '"ear": "aligned-1"')
    output.write_text(renamed)
    run("draw_retrieval_curve.py", str(output), str(tmp_path / "curve.svg"))
    assert (tmp_path / "curve.svg").stat().st_size > 5_000
    assert "| system + user |" in capsys.readouterr().out
