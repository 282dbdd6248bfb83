"""The tool that measures the retrieval curve, on tiny bases: every factor, controls, and going on."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from aista.config import AlignSettings
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


@pytest.mark.slow
def test_every_factor_is_measured_once_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny.pretrain_settings(tmp_path)
    model, processor = fresh_model(settings.model, seed=1)  # type: ignore[arg-type]
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    output = tmp_path / "curve.jsonl"
    arguments = (
        "--ear", f"saved={tmp_path / 'saved'}", "--ear", "untrained=untrained:2", "--ear", "text=translation",
        "--data", str(tiny.manifest(tmp_path / "st.jsonl")), "--pairs", "6", "--prompts", *PROMPTS,
        "--output", str(output),
    )  # fmt: skip
    run("retrieval_curve.py", *arguments)
    rows = [json.loads(line) for line in output.read_text().strip().split("\n")]
    found = [(row["prompt"], row["ear"], row["cloud"], row["layer"], row["cost"]) for row in rows]
    clouds = 3  # nothing before the span: the whole sequence is the span
    assert len(found) == len(set(found)) == clouds * len(EARS) * 4 * 3
    assert {row["prompt_tokens"] == 0 for row in rows if row["prompt"] == "none"} == {True}
    assert all(0 < row["mrr"] <= 1 and 0 < row["length_only_mrr"] <= 1 for row in rows)
    at_0 = {row["ear"]: row["mrr"] for row in rows if row["layer"] == 0 and row["cloud"] == "span"}
    assert set(at_0) == set(EARS)
    run("retrieval_curve.py", *arguments)  # nothing is measured again
    assert len(output.read_text().strip().split("\n")) == len(rows)
    fewer = [word if word != "6" else "4" for word in arguments]
    run("retrieval_curve.py", *fewer, "--clouds", "span")
    last = json.loads(output.read_text().strip().split("\n")[-1])
    assert last["num_pairs"] == 4 and last["data"] == rows[0]["data"]
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    renamed = output.read_text().replace('"ear": "saved"', '"ear": "aligned-1"')
    output.write_text(renamed)
    run("draw_retrieval_curve.py", str(output), str(tmp_path / "curve.svg"))
    assert (tmp_path / "curve.svg").stat().st_size > 5_000
    assert "| system + user (" in capsys.readouterr().out


@pytest.mark.slow
def test_alignment_is_timed_once_by_similarity_and_seed_and_drawn(tmp_path: Path) -> None:
    stage1 = tiny.pretrain_settings(tmp_path).model_dump(mode="json")
    data = {**stage1["data"], "validation": stage1["data"]["train"]}
    train = {"max_steps": 2, "per_device_train_batch_size": 4, "eval_steps": 1, "save_steps": 1,
             "warmup_steps": 1}  # fmt: skip
    values = {"output": str(tmp_path / "aligned"), "model": stage1["model"], "data": data, "train": train}
    AlignSettings.of(values).save(tmp_path / "align.yaml")
    output = tmp_path / "align.jsonl"
    arguments = ("--config", str(tmp_path / "align.yaml"), "--similarities", "wasserstein", "mean",
                 "--output", str(output))  # fmt: skip
    run("align_curve.py", *arguments)
    rows = [json.loads(line) for line in output.read_text().strip().split("\n")]
    assert [(row["similarity"], row["step"]) for row in rows] == [
        ("wasserstein", 1), ("wasserstein", 2), ("mean", 1), ("mean", 2),
    ]  # fmt: skip
    assert all(0 < row["mrr"] <= 1 and row["cpu_seconds"] >= 0 for row in rows)
    run("align_curve.py", *arguments)
    assert len(output.read_text().strip().split("\n")) == len(rows)
    run("align_curve.py", *arguments, "--set", "train.max_steps=3")
    assert len(output.read_text().strip().split("\n")) == len(rows) + 2 * 3
    run("align_curve.py", "--output", str(output), "--draw", str(tmp_path / "align.svg"))
    assert "CPU seconds" in (tmp_path / "align.svg").read_text()
