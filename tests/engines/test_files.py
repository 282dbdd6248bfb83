"""The shipped engine files, read by accelerate's own launcher."""

from __future__ import annotations

import pytest

from aista.cli.machine import engine_files
from aista.errors import ConfigError
from tests.engines.launch import launcher_environment


def test_every_engine_is_found_and_read() -> None:
    names = [path.stem for path in engine_files()]
    assert names == ["ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"]
    for name in names:
        found = launcher_environment(name)
        assert found["ACCELERATE_MIXED_PRECISION"] == "no", name  # the run's own settings decide
    with pytest.raises(ConfigError, match="ddp, deepspeed_zero2"):
        engine_files("fsdp3")


def test_fsdp2_shards_the_blocks() -> None:
    found = launcher_environment("fsdp2")
    assert (found["ACCELERATE_USE_FSDP"], found["FSDP_VERSION"]) == ("true", "2")
    assert found["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert found["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert found["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_takes_its_numbers_from_the_run(stage: int) -> None:
    """DeepSpeed is no dependency: what accelerate hands to it is checked here, not what it does with that."""
    found = launcher_environment(f"deepspeed_zero{stage}")
    assert found["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert found["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in found or found[
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
    ] in ("auto", "None")
