"""Configurations for ``accelerate launch``, one file an engine: data parallel, FSDP2, DeepSpeed ZeRO."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aista.errors import ConfigError


def names() -> list[str]:
    """Return the engines that are shipped."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def engine_file(name: str) -> Path:
    """Return the path to hand to ``accelerate launch --config_file``.

    Raises:
        ConfigError: No engine has this name.
    """
    if name not in names():
        raise ConfigError(f"There is no engine {name!r}.", expected=", ".join(names()))
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    return Path(str(files(__name__)))
