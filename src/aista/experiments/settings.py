"""Settings of runs: the shipped YAML files, moved to a folder and changed value by value."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from aista.config import Settings

S = TypeVar("S", bound=Settings)
# What makes a training last a second: the nano scale of tests.
NANO_TRAIN = {
    "max_steps": 4, "eval_steps": 2, "save_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1,
    "warmup_steps": 1,
}  # fmt: skip
# Changes of the demo's shipped configs at nano scale, by config.
NANO: Mapping[str, Mapping[str, Any]] = {
    "pretrain": {"train": NANO_TRAIN},
    "joint": {"train": NANO_TRAIN},
    "select": {"num_pairs": 8, "threshold_times_chance": 0.0},
    "evaluate": {"limit": 4, "generation": {"max_new_tokens": 8}},
}


def shipped(kind: type[S], name: str, folder: Path, scale: str = "") -> S:
    """Return a config of the demo with its paths moved to ``folder``; at scale ``nano`` it takes seconds."""
    path = Path(str(files("aista.demo"))) / "configs" / f"{name}.yaml"
    settings = moved(kind.load(path), {"runs/demo": folder, "runs/build": folder})
    return changed(settings, **NANO[name]) if scale == "nano" else settings


def changed(settings: S, **values: Any) -> S:
    """Return settings with some values changed; a mapping changes single values of inner settings.

    Raises:
        ConfigError: A value is not allowed.
    """
    update: dict[str, Any] = {}
    for name, value in values.items():
        inner = getattr(settings, name, None)
        if isinstance(inner, Settings) and isinstance(value, Mapping):
            update[name] = changed(inner, **value)
        else:
            update[name] = value
    return type(settings).of(dict(settings.model_copy(update=update)))


def moved(settings: S, folders: Mapping[str, Path]) -> S:
    """Return settings in which every path that begins with one of these folders begins with another.

    Args:
        settings: Any settings.
        folders: A folder as it stands in the settings -> where it is.
    """

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if isinstance(value, str):
            for old, new in folders.items():
                if value == old or value.startswith(f"{old}/"):
                    return str(new) + value[len(old) :]
        return value

    return type(settings).of(walk(settings.model_dump()))
