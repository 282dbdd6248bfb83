"""What has to be trained follows from what is to be shown, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from aista import alignment
from aista.config import DataSettings, JointSettings
from aista.errors import ConfigError
from aista.experiments.paper import tables as paper
from aista.experiments.paper.systems import NEEDS, Backbone, Scope, chosen_names, systems
from aista.experiments.plan import changed

BACKBONES = (Backbone("one", "One", "aista:stage1", "Qwen2-7B"), Backbone("two", "Two", "x", "Vicuna-13B"))


def plan(*names: str, seeds: int = 1, root: Path = Path("f"), **changes: object) -> Scope:
    values = {
        "names": chosen_names(names), "backbones": BACKBONES, "systems": systems(6),
        "seeds": tuple(range(1, seeds + 1)), "root": root,
    }  # fmt: skip
    return Scope(**{**values, **changes})


def names(*exhibits: str, **changes: object) -> list[str]:
    return [run.name for run in plan(*exhibits, **changes).runs()]


def test_a_table_needs_its_own_runs_alone() -> None:
    assert names("table1", "figure4") == []
    assert names("table2") == ["one/base/seed_1", "one/ai_sta/seed_1", "two/base/seed_1", "two/ai_sta/seed_1"]
    assert all(name.startswith("one/") for name in names("table3", "table4"))


def test_the_first_seed_of_everything_comes_first() -> None:
    seeds = [int(name[-1]) for name in names("all", seeds=3)]
    assert seeds == sorted(seeds) and seeds.count(1) > seeds.count(2) == seeds.count(3) > 0


def test_layer_sets_are_trained_once_unless_asked() -> None:
    assert "one/layer_0/seed_2" not in names("all", seeds=2)
    assert "one/layer_0/seed_2" in names("all", seeds=2, every_seed=True)


def test_runs_are_not_repeated_between_exhibits() -> None:
    found = names("all", seeds=2)
    assert len(found) == len(set(found))


def test_every_method_is_a_system_with_settings_that_can_be_read() -> None:
    found = systems(6, ["my.own"])
    assert {*alignment.names(), "own"} - {"none", "wasserstein"} <= set(found)
    assert "one/own/seed_1" in names("table4", systems=found) and "one/own/seed_1" in names(
        "figure6", systems=found
    )
    for system in found.values():
        start = JointSettings(output="a", init="b", data=DataSettings(train=["c"], validation=["d"]))
        assert changed(start, alignment=system.alignment).alignment.method


@pytest.mark.parametrize("name", ["other.base", "my_package.ctc", "b.x", "my.ai_sta_raw"])
def test_a_method_does_not_take_the_place_of_another_system(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        systems(6, ["a.x", name])
    assert systems(6, ["ctc", "a.x", "a.x"]).keys() == {*systems(6), "x"}


def test_layer_sets_end_at_the_last_block() -> None:
    assert systems(2)["layers_0_5"].alignment == {"layers": [0, 1, 2]}
    assert systems(28)["layers_1_6"].alignment == {"layers": [1, 2, 3, 4, 5, 6]}


def test_directions_trained_apart_are_runs_apart() -> None:
    found = plan("table2", directions=("en-zh", "en-ja")).runs()
    assert len(found) == 8 and {run.model.parent.name for run in found} == {"en-zh", "en-ja"}


def test_what_the_paper_shows_of_one_direction_is_trained_in_one() -> None:
    ways = ("en-zh", "en-ja")
    second = [run for run in plan("all", directions=ways).runs() if run.direction == "en-ja"]
    assert {run.system for run in second} == {"base", "ai_sta"} and len(second) == 4
    one = plan("table3", "table4", "figure5", "figure6", "figure7", directions=ways).runs()
    assert {run.direction for run in one} == {"en-zh"}


def test_an_unknown_exhibit_is_told() -> None:
    with pytest.raises(ConfigError, match="table9"):
        chosen_names(["table9"])
    assert chosen_names(["all"]) == tuple(NEEDS)


def test_the_papers_tables_agree_with_each_other() -> None:
    base, ours = (paper.TABLE2["Qwen2-7B", system]["zh"] for system in ("base", "ai_sta"))
    assert (paper.TABLE3["base"], paper.TABLE3["ai_sta"]) == (paper.TABLE4["base"], paper.TABLE4["ai_sta"])
    assert (paper.TABLE3["base"], paper.TABLE3["ai_sta"]) == (base, ours)
    for pair, (spoken, _) in paper.TABLE5.items():
        assert paper.TABLE2[pair]["zh"] == spoken
