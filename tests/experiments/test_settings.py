"""Typed settings: moved to a folder and changed value by value, never as text that is parsed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from aista.config import JointSettings
from aista.errors import ConfigError
from aista.evaluation.evaluate import EvaluateSettings
from aista.experiments.demo import SYSTEMS, UNTAUGHT, DemoPlan
from aista.experiments.plan import NANO_TRAIN, changed, moved, shipped


def test_paths_move_and_nothing_else_does() -> None:
    joint = shipped(JointSettings, "joint", Path("else where"))
    assert joint.data.train == ["else where/corpus/st.jsonl"] and joint.init == "aista:stage1"
    odd = changed(joint, init="runs/demonstration/x", output="runs/demo")
    there = moved(odd, {"runs/demo": Path("/a")})
    assert (there.init, there.output) == ("runs/demonstration/x", "/a")


def test_a_mapping_changes_single_values_of_inner_settings() -> None:
    joint = shipped(JointSettings, "joint", Path("f"))
    other = changed(joint, alignment={"method": "none"}, seed=7)
    assert other.alignment == joint.alignment.model_copy(update={"method": "none"}) and other.seed == 7
    assert changed(other, alignment={"options": {}}).alignment.options == {}  # a plain value is replaced
    for wrong in ({"outptu": "x"}, {"alignment": {"mehtod": "none"}}, {"seed": "many"}):
        with pytest.raises(ConfigError):
            changed(joint, **wrong)


def test_nano_takes_seconds() -> None:
    assert shipped(JointSettings, "joint", Path("f"), "nano").train.max_steps == NANO_TRAIN["max_steps"]
    evaluation = shipped(EvaluateSettings, "evaluate", Path("f"), "nano")
    assert evaluation.limit == 4 and evaluation.generation.num_beams == 2


def test_base_and_ai_sta_differ_in_the_method_alone() -> None:
    plan = DemoPlan(Path("f"))
    base, ours = (plan.joint(name) for name in ("base", "ai_sta"))
    assert base == changed(ours, output=base.output, alignment={"method": "none"})
    assert [job.name for job in plan.jobs()] == [
        "select",
        "align untaught",
        *(f"{verb} {name}" for verb in ("joint", "evaluate") for name in (*SYSTEMS, *UNTAUGHT)),
    ]
    base, ours = (plan.untaught(name) for name in UNTAUGHT)
    first = plan.align()
    assert (base.init, first.init, ours.init) == (plan.stage1, plan.stage1, first.output)
    assert base.train.max_steps == first.train.max_steps + ours.train.max_steps
    own = {name: getattr(base, name).model_dump() for name in ("alignment", "train")}
    assert base == changed(ours, output=base.output, init=base.init, **own)
