"""Layer selection by two processes finds what one finds, to the last bit."""

from __future__ import annotations

from pathlib import Path

from aista.config import SelectSettings
from aista.selection.report import LayerReport
from aista.selection.select import select
from aista.training.pretrain import pretrain
from tests import tiny
from tests.engines.launch import run, torchrun


def figures(report: LayerReport) -> list[dict]:
    return [row.model_dump(exclude={"seconds"}) for row in report.rows]


def test_two_processes_select_the_layers_of_one(tmp_path: Path) -> None:
    model = pretrain(tiny.pretrain_settings(tmp_path, max_steps=1)).folder
    common = {"model": str(model), "data": [str(tmp_path / "asr.jsonl")], "num_pairs": 11, "batch_size": 3}
    alone = select(SelectSettings.of({**common, "output": str(tmp_path / "one")}))
    shared = SelectSettings.of(
        {**common, "output": str(tmp_path / "two"), "features": str(tmp_path / "features")}
    )
    shared.save(tmp_path / "select.yaml")
    said = run(torchrun("select", "--config", str(tmp_path / "select.yaml"), "--set", "features=null"))
    report = LayerReport.load(tmp_path / "two/layers.json")
    assert figures(report) == figures(alone) and report.selected == alone.selected
    assert said.count("threshold") == 1, said
    assert not (tmp_path / "two/states").exists()


def test_one_process_fills_the_cache_and_both_read_it(tmp_path: Path) -> None:
    model = pretrain(tiny.pretrain_settings(tmp_path, max_steps=1)).folder
    common = {"model": str(model), "data": [str(tmp_path / "asr.jsonl")], "num_pairs": 8, "batch_size": 3}
    for name in ("one", "two"):
        SelectSettings.of(
            {**common, "output": str(tmp_path / name), "features": str(tmp_path / f"features_{name}")}
        ).save(tmp_path / f"{name}.yaml")
    alone = select(SelectSettings.load(tmp_path / "one.yaml"))
    said = run(torchrun("select", "--config", str(tmp_path / "two.yaml")))
    assert said.count("about") == 1, said  # the size of the cache is told once, by the one that fills it
    assert figures(LayerReport.load(tmp_path / "two/layers.json")) == figures(alone)
    written = [(tmp_path / f"features_{name}/features.bin").read_bytes() for name in ("one", "two")]
    assert written[0] == written[1]
