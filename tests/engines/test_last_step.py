"""Two processes where the last step of an epoch has no rows for one of them: the same as one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aista.config import JointSettings
from aista.training.stages import joint
from tests.engines import stages
from tests.engines.launch import launcher_environment, run, torchrun

METHODS: dict[str, dict[str, Any]] = {
    "wasserstein": {"layers": [0, 1], "alpha": 0.9},
    "text_spread": {"layers": [0, 1], "alpha": 0.5, "options": {"scale": "text_spread"}},
    "contrastive": {"method": "contrastive", "alpha": 0.5},
    "retrieval": {"method": "retrieval", "layers": [1], "alpha": 0.5},
}


def written(folder: Path, init: Path, name: str, alignment: dict[str, Any], size: int) -> tuple[Path, Any]:
    """12 rows, 10 a step: every second step has two rows, which are one micro-batch of one process."""
    train = {"global_batch_size": 10, "per_device_train_batch_size": size, "learning_rate": 1e-3}
    path, settings = stages.joint_yaml(folder, init, name, **train)
    settings = JointSettings.of(settings.model_dump() | {"alignment": alignment})
    settings.save(path)
    return path, settings


def curves(settings: Any) -> list[tuple[int, str, float]]:
    rows = json.loads((Path(settings.output) / "history.json").read_text())
    speeds = ("second", "memory", "padding", "epoch", "step", "grad_norm")
    return [(r["step"], k, r[k]) for r in rows for k in sorted(r) if not any(word in k for word in speeds)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_are_one_where_one_of_them_has_no_rows(tmp_path: Path) -> None:
    init = stages.stage1(tmp_path)
    alone = {name: written(tmp_path, init, name, a, 10)[1] for name, a in METHODS.items()}
    shared = {name: written(tmp_path, init, f"two_{name}", a, 5) for name, a in METHODS.items()}
    shared["sharded"] = written(tmp_path, init, "two_sharded", METHODS["contrastive"], 5)
    jobs = [f"{'fsdp2:' * (name == 'sharded')}joint={path}" for name, (path, _) in shared.items()]
    fsdp2 = launcher_environment("fsdp2").items()
    engines = {"fsdp2": {name: value for name, value in fsdp2 if name.startswith(("FSDP_", "ACCELERATE_"))}}
    run(torchrun(*jobs, module="tests.engines.drive"), {"ENGINES": json.dumps(engines)}, timeout=800)
    for name, (_, settings) in shared.items():
        one = alone["contrastive" if name == "sharded" else name]
        if not Path(one.output).exists():
            joint(one)
        found, wanted = curves(settings), curves(one)
        assert [row[:2] for row in found] == [row[:2] for row in wanted]
        assert [row[2] for row in found] == pytest.approx([row[2] for row in wanted], rel=1e-4, abs=1e-6), (
            name
        )
