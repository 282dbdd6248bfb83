"""Whose folder is this? Every verb claims its output folder before it writes there.

Beside its results a run leaves ``settings.yaml`` and ``inputs.yaml``: its settings, and the SHA-256 of every
manifest and model that it was made from. The same command goes on with an interrupted run, and is told when
the run is finished. A command with other settings, data or models is refused and told what differs. A lock
keeps two processes apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from aista import processes
from aista.config import Content, Settings
from aista.errors import AistaError, ConfigError, ManifestError
from aista.files import DRAFTS, sha256_of, write_whole
from aista.model.bases import locate

SETTINGS, INPUTS, LOCK, HOLDER = "settings.yaml", "inputs.yaml", ".lock", ".holder"
PROVENANCE = "provenance.yaml"  # what a sweep writes down of a run before it begins
# What is read of a model's folder, whoever wrote it; logs and results of the run that made it are not.
_OF_A_MODEL = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "adapted.json", "*token*", "vocab*", "merges.txt", "chat_template*", "*.model", "*.index.json",
    "*.safetensors", "*.bin", "*.pt", "*.pth",
)  # fmt: skip
_PATIENCE_SECONDS = 30.0


@contextmanager
def claim(
    folder: str | os.PathLike[str],
    settings: Settings,
    inputs: Callable[[], Mapping[str, str]],
    *,
    result: str,
    may_change: Collection[str] = (),
) -> Iterator[bool]:
    """Hold an output folder for one run; the value says whether that run is finished already.

    Of several processes under a launcher the main one holds it, and all are told.

    Args:
        folder: The output folder; it is made.
        settings: Of the run. What does not change a result (``Settings.harmless``) is not compared.
        inputs: Returns the name and the content's hash of everything the run is made from: ``inputs_of``.
        result: Name of the file that is written last.
        may_change: Settings that another attempt may change; the run is then not finished, and an older
            result is removed. Everything else that differs is refused.

    Raises:
        ConfigError: The folder belongs to a run with other settings or from other inputs, or another process
            is at work there. The message says which, from what to what.
    """
    place = Path(folder)
    with ExitStack() as lock:

        def begin() -> bool:
            found = inputs()
            # Asked without the lock first: a finished folder may lie on a disk that cannot be written.
            if not _finished(place, settings, found, result, may_change):
                lock.enter_context(held(place))
                if not _finished(place, settings, found, result, may_change):
                    with writable(place):
                        (place / result).unlink(missing_ok=True)
                        settings.save(place / SETTINGS)
                        write_whole(place / INPUTS, yaml.safe_dump(dict(found), allow_unicode=True))
                    return False
            print(f"{place}: finished before, nothing was done", file=sys.stderr)
            return True

        yield processes.by_main(begin)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what a disk answers into words.

    Raises:
        ConfigError: The folder cannot be made or written.
    """
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written.", got=error, advice="Make room, or choose another output."
        ) from error


def is_finished(
    folder: Path, settings: Settings, inputs: Callable[[], Mapping[str, str]], *, result: str
) -> bool:
    """Say whether a folder holds the finished run of these settings and inputs; nothing is written.

    Args:
        folder, settings, inputs, result: As for ``claim``.
    """
    if not (folder / result).exists() or not (folder / SETTINGS).exists():
        return False
    try:
        return not _differing_settings(folder, settings) and not _differing_inputs(folder, inputs())
    except AistaError:
        return False


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder.

    Raises:
        ConfigError: Another process holds it; the message says which.
    """
    lock, holder = FileLock(folder / LOCK), folder / HOLDER
    try:
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # The children of a process that was killed may hold its lock for a moment.
            lock.acquire(timeout=0 if _may_be_alive(holder) else _PATIENCE_SECONDS)
    except Timeout:
        process = "process {pid} on {host}, since {since}: {command}"
        about = _about(holder)
        raise ConfigError(
            f"Another process is writing to {folder}.",
            got=process.format_map(about) if about else "a process that has just started",
            advice="Wait for it, stop it, or choose another output.",
        ) from None
    except NotImplementedError:
        print(
            f"warning: {folder} lies on a disk without locks: start one run there at a time", file=sys.stderr
        )
    for left in folder.glob(DRAFTS):  # of processes that were killed
        left.unlink(missing_ok=True)
    about = {"pid": os.getpid(), "host": socket.gethostname(), "command": shlex.join(sys.argv)}
    with writable(folder):
        write_whole(holder, json.dumps(about | {"since": time.strftime("%Y-%m-%d %H:%M:%S")}))
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def inputs_of(settings: Settings) -> dict[str, str]:
    """Return the hash of the content of every file that settings name: manifests, models, layer reports.

    Raises:
        ManifestError, CheckpointError, ConfigError: One of them is not there.
    """
    return {f"{key} {name}": _content(kind, name) for key, kind, name in settings.named_contents()}


def sha256_of_model(source: str) -> str:
    """Identify a model, or a base, by the content of its configuration, tokenizer and weights.

    Args:
        source: ``aista:NAME``, a path, or a hub id.

    Raises:
        CheckpointError: It is nowhere.
    """
    place = locate(source)
    if place.is_file():
        return sha256_of(place)
    files = sorted({path for pattern in _OF_A_MODEL for path in place.glob(pattern) if path.is_file()})
    rows = [f"{path.name} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def read_selected(path: str | os.PathLike[str]) -> list[int]:
    """Return the set I of layers that a layer report of ``aista select`` holds.

    Raises:
        ConfigError: The file is missing or is no layer report.
    """
    try:
        return [int(layer) for layer in json.loads(Path(path).read_text(encoding="utf-8"))["selected"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"Cannot read the layer report {path}.",
            got=str(error) or type(error).__name__,
            advice="Write one with `aista select`.",
        ) from None


def _content(kind: Content, name: str) -> str:
    if kind == "model":
        return sha256_of_model(name)
    if kind == "layers":  # what a run takes from a report, whenever it was written
        return f"layers {read_selected(name)}"
    try:
        return sha256_of(Path(name))
    except FileNotFoundError:
        raise ManifestError(f"{name}: no such {kind}.", advice="Check the path.") from None
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read.", got=error.strerror) from None


def _finished(
    folder: Path, settings: Settings, inputs: Mapping[str, str], result: str, may_change: Collection[str]
) -> bool:
    """Compare what a folder was made from with what a run is to be made from.

    Raises:
        ConfigError: They differ, and there is something in the folder that would be mixed up.
    """
    if not (folder / SETTINGS).exists():
        if (folder / result).exists():
            raise ConfigError(
                f"{folder} holds a {result}, but does not say what it was made from.",
                expected=f"{SETTINGS} beside it",
                advice="Choose another output, or delete that folder.",
            )
        return False
    changed = _differing_settings(folder, settings)
    mixed = [text for key, text in changed.items() if key.split(".")[0] not in may_change]
    data = _differing_inputs(folder, inputs)
    mixed_data = [text for key, text in data.items() if key.split(" ")[0] not in may_change]
    if (mixed or mixed_data) and holds_work(folder):
        raise ConfigError(
            f"{folder} holds a run with other {'settings' if mixed else 'data or another model'}.",
            got="; ".join([*mixed, *mixed_data]),
            advice="Choose another output, delete that folder, or go back to what it was made from.",
        )
    return not changed and not data and (folder / result).exists()


def _differing_settings(folder: Path, settings: Settings) -> dict[str, str]:
    """Return each setting that differs, with both of its values in words."""
    before, now = type(settings).load(folder / SETTINGS).identity(), settings.identity()

    def shown(values: Mapping[str, Any], key: str) -> str:
        return json.dumps(values[key], ensure_ascii=False, default=str) if key in values else "not set"

    absent = object()
    return {
        key: f"{key} was {shown(before, key)}, is {shown(now, key)}"
        for key in (*now, *(before.keys() - now.keys()))
        if before.get(key, absent) != now.get(key, absent)
    }


def _differing_inputs(folder: Path, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return each input whose content is another now, with both in words."""
    path = folder / INPUTS
    if not path.exists():
        if holds_work(folder):
            print(f"warning: {folder} does not say what data it was made from: not compared", file=sys.stderr)
        return {}
    before = yaml.safe_load(path.read_text(encoding="utf-8"))

    def short(content: str) -> str:
        return content if content.startswith("layers") else f"sha256 {content[:16]}"

    return {
        key: f"the content of {key} was {short(before[key])}, is {short(value)}"
        for key, value in inputs.items()
        if key in before and before[key] != value
    }


def holds_work(folder: Path) -> bool:
    """Say whether anything was done in a folder since it was claimed."""
    before_work = (SETTINGS, INPUTS, LOCK, HOLDER, PROVENANCE)
    return folder.exists() and any(path.name not in before_work for path in folder.iterdir())


def _about(holder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(holder.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _may_be_alive(holder: Path) -> bool:
    """Say whether the process that holds a folder may still run; of another machine nobody knows."""
    about = _about(holder)
    if not about or about.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(about["pid"]), 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
