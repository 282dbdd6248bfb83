"""Checkpoints of a run on disk: complete or not at all, and clear words where the disk refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from aista.errors import TrainingError

COMPLETE = "COMPLETE"


def last_checkpoint(output: Path) -> str | None:
    """Return the newest complete checkpoint of a run and delete those a crash left half-written."""
    folders = _oldest_first(output / "checkpoints")
    for folder in folders:
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)
    complete = [folder for folder in folders if folder.exists()]
    return str(complete[-1]) if complete else None


def complete(folder: Path, best: str | None) -> None:
    """Mark a checkpoint as complete; then delete all but this one, the one before it and the best.

    The mark of a checkpoint that is deleted goes first: a crash leaves no half of it that looks whole.
    """
    (folder / COMPLETE).touch()
    older = [other for other in _oldest_first(folder.parent) if other != folder]
    kept = {path.resolve() for path in older[-1:]} | ({Path(best).resolve()} if best else set())
    for other in older:
        if other.resolve() not in kept:
            (other / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(other)


def _oldest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@contextmanager
def writing(folder: Path, *, torn: Path | None = None) -> Iterator[None]:
    """Turn what a disk answers into words.

    Args:
        folder: What is written to.
        torn: What to delete if it could not be written whole.

    Raises:
        TrainingError: The disk is full, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "writ" not in str(error):  # torch.save's own name for it
            raise
        if torn is not None:
            shutil.rmtree(torn, ignore_errors=True)
        raise TrainingError(
            f"The run cannot be written to {folder}.",
            got=error,
            expected=_free_space(folder),
            advice="Make room or choose another output. Complete checkpoints are untouched: the same "
            "command goes on from the last one.",
        ) from error


def _free_space(folder: Path) -> str:
    place = next(parent for parent in (folder, *folder.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    return f"a folder that can be written ({free / 1e6:,.0f} MB are free on its disk)"
