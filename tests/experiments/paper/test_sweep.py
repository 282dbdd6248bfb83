"""`aista reproduce all` at nano scale, with a method that a file added."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aista import alignment
from aista.cli.experiments import app
from aista.config import JointSettings
from aista.experiments.paper.plan import paper_plan
from aista.experiments.paper.systems import NEEDS
from aista.experiments.results import Figure, Table, load_all
from aista.experiments.runner import Outcome

pytestmark = pytest.mark.timeout(900)  # of a busy machine; alone it takes about a minute

MEAN_GAP = '''
"""Squared distance of the mean states."""
from aista.alignment.base import Alignment

class Method(Alignment):
    def pair_losses(self, states):
        gaps = {n: states.speech[n].mean(1) - states.text[n].mean(1) for n in self.layers}
        return {f"gap_{n}": gap.square().sum(-1) for n, gap in gaps.items()}
'''
NOT_A_NUMBER = MEAN_GAP.replace(".sum(-1)", '.sum(-1) * float("nan")')


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A finished nano sweep in which two methods were found beside the shipped ones."""
    pytest.importorskip("espeakng_loader")
    added = tmp_path_factory.mktemp("methods")
    (added / "mean_gap.py").write_text(MEAN_GAP)
    (added / "not_a_number.py").write_text(NOT_A_NUMBER)
    alignment.__path__.append(str(added))
    folder = tmp_path_factory.mktemp("reproduce") / "nano"
    try:
        result = CliRunner().invoke(app, ["reproduce", "all", "--scale", "nano", "--output", str(folder)])
    finally:
        alignment.__path__.remove(str(added))
    assert result.exit_code == 0, result.output[-3000:]
    yield folder, result.output


def cells(table: Table, key: str) -> list:
    return next(row for row in table.rows if row.key == key and row.group == "qwen2").cells


@pytest.mark.slow
def test_every_table_and_figure_is_made(swept: tuple[Path, str]) -> None:
    folder, printed = swept
    made = load_all(folder)
    assert set(NEEDS) <= set(made) and (folder / "report.html").stat().st_size > 10_000
    assert not [note for exhibit in made.values() for note in exhibit.notes if "Not finished" in note]
    for name in ("table1", "table2", "table3", "table4", "table5"):
        assert made[name].title in printed
        assert {path.suffix for path in (folder / "exhibits").glob(f"{name}.*")} == {".json", ".csv", ".tex"}


@pytest.mark.slow
def test_a_method_in_a_new_file_is_swept_tabled_and_plotted(swept: tuple[Path, str]) -> None:
    made = load_all(swept[0])
    table, figure = made["table4"], made["figure6"]
    assert isinstance(table, Table) and isinstance(figure, Figure)
    assert cells(table, "mean_gap")[0].value is not None
    assert "mean_gap" in json.dumps(figure.data)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_result(swept: tuple[Path, str]) -> None:
    made = load_all(swept[0])["table4"]
    assert isinstance(made, Table)
    cell = cells(made, "not_a_number")[0]
    assert cell.text() == "X" and "finite" in cell.note


@pytest.mark.slow
def test_a_run_says_what_it_was_made_from(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    run = folder / "runs/qwen2/ai_sta/seed_1"
    settings = JointSettings.load(run / "settings.yaml")
    text = (run / "provenance.yaml").read_text()
    assert settings.sha256() in text and "data_sha256" in text and "torch" in text
    summary = json.loads((folder / "reproduce.json").read_text())
    assert {"joint", "evaluate", "select", "wall"} <= set(summary["seconds"]) and summary["machine"]["cores"]
    assert summary["scale"] == "nano" and "corpus/test_rare.jsonl" in summary["data_sha256"]


@pytest.mark.slow
def test_systems_differ_in_method_and_output_alone(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    one, other = (
        JointSettings.load(folder / f"runs/qwen2/{system}/seed_1/settings.yaml").model_dump()
        for system in ("base", "ai_sta")
    )
    assert {key for key in one if one[key] != other[key]} == {"output", "alignment"}
    assert {k for k in one["alignment"] if one["alignment"][k] != other["alignment"][k]} == {"method"}


@pytest.mark.slow
def test_what_is_finished_is_not_repeated_and_what_is_missing_is_made(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    jobs = {job.name: job for job in paper_plan("nano", folder, ["all"]).jobs()}
    assert {job.already() for job in jobs.values()} == {Outcome.FINISHED}
    lost = jobs["evaluate qwen2/base/seed_1"]
    before = json.loads((lost.output / "results.json").read_text())
    (lost.output / "results.json").unlink()
    assert lost.already() is None and lost.here() is Outcome.FINISHED
    assert json.loads((lost.output / "results.json").read_text())["scores"] == before["scores"]


@pytest.mark.slow
def test_two_runners_do_not_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from aista.run_folder import held\n"
        "with held(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    try:
        result = CliRunner().invoke(app, ["reproduce", "table1", "--output", str(tmp_path)])
        assert "Another process" in str(result.exception)
    finally:
        other.kill()
        other.wait()


def test_the_papers_scale_says_what_is_missing_and_shows_its_commands(tmp_path: Path) -> None:
    start = [
        "reproduce",
        "table2",
        "--scale",
        "paper",
        "--output",
        str(tmp_path),
        "--data",
        str(tmp_path / "d"),
    ]
    missing = str(CliRunner().invoke(app, start).exception)
    for name in ("covost2-en-zh/train.jsonl", "librispeech/test-clean.jsonl", "models/qwen2"):
        assert name in missing
    assert "whisper/tokenizer_config.json" in missing  # of the cascade, which lets Whisper write
    start[1] = "figure4"
    assert "covost2" not in str(CliRunner().invoke(app, start).exception)
    start[1] = "table2"
    launch = "torchrun --nproc_per_node 8 -m aista"
    shown = CliRunner().invoke(app, [*start, "--launch", launch, "--dry-run"]).output.splitlines()
    joint = [line for line in shown if " joint " in line]
    assert len(joint) == 8 and all(line.startswith(f"{launch} joint --config") for line in joint)
    verbs = [line.split(" --config")[0].split(" ")[-1] for line in shown]
    assert [" --baseline " in line for line in shown].index(False) == 4  # they wait for nothing
    assert verbs[4:8] == ["pretrain", "select", "pretrain", "select"]
    assert not (tmp_path / "configs").exists()  # a sweep that is at work there keeps its settings
    jobs = paper_plan("paper", tmp_path, ["table2"], data=tmp_path / "d").jobs()
    settings = [job.settings for job in jobs if job.verb == "joint"][-1]
    assert settings.data.train == [str(tmp_path / "d/covost2-en-ja/train.jsonl")]
    assert settings.init == str(tmp_path / "pretrain/vicuna-13b")
    assert settings.alignment.options == {"scale": "raw"} and settings.train.warmup_steps == 3000
