"""A study: what is compared with what, what its table says, and a tiny one from nothing that goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aista.cli.experiments import app
from aista.config import JointSettings
from aista.errors import ConfigError
from aista.experiments.study import (
    GROUPS,
    MEASURES,
    NONE,
    REGIMES,
    STAGES,
    StudyPlan,
    Variant,
    chosen,
    figure,
    finding,
    table,
)

VARIANTS = [variant for group in GROUPS for variant in group]


def scores(bleu: float, accuracy: float = 90.0) -> dict[str, float]:
    return {"bleu": bleu, "token_accuracy": accuracy, "mt_bleu": 98.0, "steps": 160.0}


def test_every_variant_has_a_base_of_its_own_kind() -> None:
    names = {variant.name: variant for variant in VARIANTS}
    assert len(names) == len(VARIANTS)
    for variant in VARIANTS:
        base = names[variant.against]
        assert base.is_base and base.regime == variant.regime in REGIMES
        assert base.alignment == NONE
        # What differs is the variant, or the alignment in a stage 1 that is otherwise the same.
        assert variant.stage1 == base.stage1 or (variant.stage1, base.stage1) == (
            f"{base.stage1}_aligned",
            base.stage1,
        )
        assert variant.stage1 in {"", *STAGES}


def test_a_variant_brings_what_it_is_compared_with() -> None:
    assert [[variant.name for variant in group] for group in chosen(["spread_above", "stop_spread"])] == [
        ["base", "spread_above"],
        ["stop_base", "stop_spread"],
    ]
    assert sum(map(len, chosen([]))) == len(VARIANTS)
    with pytest.raises(ConfigError, match="no variant nonsense"):
        chosen(["nonsense"])


def test_runs_differ_in_the_variant_alone(tmp_path: Path) -> None:
    plan = StudyPlan(tmp_path, seeds=2)
    joints = {job.name.split(" ")[1]: job.settings for job in plan.jobs() if job.verb == "joint"}
    joints = {name: settings for name, settings in joints.items() if name.split("/")[0] not in STAGES}
    assert len(joints) == 2 * len(VARIANTS)
    for variant in VARIANTS:
        one, base = joints[f"{variant.name}/seed_2"], joints[f"{variant.against}/seed_2"]
        same = {"alignment": None, "output": "", "init": ""}
        assert one.model_copy(update=same) == base.model_copy(update=same)
        assert JointSettings.of(one.model_dump()) == one and one.seed == 2
    assert joints["cosine/seed_1"].alignment.layers == list(range(7))
    assert joints["spread_above/seed_1"].alignment.layers == list(range(1, 7))
    # A study selects no layers: no run may ask for a report of them.
    assert not [row for job in joints.values() for row in job.named_contents() if row[1] == "layers"]
    names = [job.name for job in plan.jobs()]
    assert names.index("joint long_aligned/seed_1") < names.index("joint long_aligned_stage1/seed_1")
    # A group has all its seeds before the next begins.
    assert names.index("evaluate cosine_0/seed_2") < names.index("joint mixed_base/seed_1")


def test_differences_are_of_the_same_seed() -> None:
    base, cosine = Variant("base", "base"), Variant("cosine", "cosine")
    theirs = {1: scores(60.0), 2: scores(70.0), 3: scores(80.0)}
    found = finding(cosine, {1: scores(61.0), 2: scores(71.5), 3: scores(80.5), 4: scores(99.0)}, theirs)
    assert found is not None and found.seeds == (1, 2, 3)
    assert found.gains["bleu"].values == pytest.approx((1.0, 1.5, 0.5))
    # Student's t with two degrees of freedom: 4.303 * 0.5 / sqrt(3).
    assert found.gains["bleu"].high - found.gains["bleu"].mean == pytest.approx(1.242, abs=1e-3)
    assert not found.gains["bleu"].is_clear
    assert finding(cosine, {}, theirs) is None
    shown = table([finding(base, theirs, theirs), found])
    assert [row.label for row in shown.rows] == ["little data", "base", "cosine"]
    assert len(shown.rows[2].cells) == len(shown.columns) == 2 * len(MEASURES) + 2
    difference = shown.rows[2].cells[1]
    assert difference.text() == "1.0 ± 1.2" and difference.p_value == pytest.approx(0.0742, abs=1e-3)
    picture = figure([finding(base, theirs, theirs), found])
    assert picture is not None and [row["measure"] for row in picture.data["rows"]] == ["BLEU", "text BLEU"]
    assert ">cosine<" in picture.svg
    assert figure([finding(base, theirs, theirs)]) is None


def test_a_study_shows_every_variant_and_seed_that_is_there(tmp_path: Path) -> None:
    for name, seeds in (("base", 5), ("cosine", 5), ("spread", 3)):
        for seed in range(1, seeds + 1):
            run = tmp_path / "runs" / name / f"seed_{seed}"
            (run / "evaluate").mkdir(parents=True)
            values = {f"{kind}_{code}": 50.0 + seed for kind in ("bleu", "mt_bleu") for code in ("zh", "ja")}
            (run / "evaluate" / "results.json").write_text(json.dumps({"scores": values}))
            (run / "training.json").write_text(json.dumps({"best_token_accuracy": 0.9, "steps": 160}))
    shutil.copytree(tmp_path / "runs/cosine/seed_1", tmp_path / "runs/cosine/seed_1_old")  # its user's own
    for words in (["--no-run"], ["cosine", "--seeds", "1", "--no-run"]):
        result = CliRunner().invoke(app, ["study", *words, "--output", str(tmp_path)])
        assert result.exit_code == 0, result.output
        found = json.loads((tmp_path / "study.json").read_text())
        assert {row["name"]: len(row["seeds"]) for row in found["ideas"]} == {
            "base": 5, "cosine": 5, "spread": 3,
        }  # fmt: skip
        assert found["seeds"] == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tiny_study_from_nothing(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    call = ["--scale", "nano", "--seeds", "1", "--workers", "0", "--output", str(tmp_path)]
    first = CliRunner().invoke(app, ["study", "spread", *call])
    assert first.exit_code == 0, first.output[-3000:]
    finished = tmp_path / "runs" / "spread" / "seed_1"
    before = (finished / "training.json").stat().st_mtime_ns
    result = CliRunner().invoke(app, ["study", "spread", "weak_aligned_stage1", *call])
    assert result.exit_code == 0, result.output[-3000:]
    assert (finished / "training.json").stat().st_mtime_ns == before
    rows = {row["name"]: row for row in json.loads((tmp_path / "study.json").read_text())["ideas"]}
    assert set(rows) == {"base", "spread", "weak_base", "weak_aligned_stage1"}
    assert rows["base"]["gains"] == {} and len(rows["spread"]["gains"]["bleu"]["values"]) == 1
    assert (tmp_path / "exhibits" / "study_figure.svg").exists()
    assert "aligned in stage 1 (cosine" in (tmp_path / "exhibits" / "study.csv").read_text()
    dry = CliRunner().invoke(app, ["study", "cosine", *call, "--dry-run"])
    assert dry.exit_code == 0 and dry.output.count("aista joint --config") == 2
