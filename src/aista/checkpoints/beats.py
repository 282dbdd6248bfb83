"""BEATs files: which of the published ones this is, and how to keep one as safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from aista.checkpoints.hub import SOURCES
from aista.errors import CheckpointError
from aista.files import sha256_of
from aista.model.beats import BeatsForAudioTagging, BeatsModel, read_checkpoint


@dataclass(frozen=True)
class BeatsReport:
    """What a BEATs file holds.

    Attributes:
        layers, width: Of the encoder.
        labels: Classes of the head, 0 without one.
        parameters: Of the encoder.
        published: Whether its sha256 is that of the file SALMONN uses.
    """

    layers: int
    width: int
    labels: int
    parameters: int
    published: bool


def inspect(path: str | Path) -> BeatsReport:
    """Read a BEATs file and say what it is.

    Raises:
        CheckpointError: It is unsafe, damaged, or no BEATs file.
    """
    config, state, head = read_checkpoint(path)
    known = {file.sha256 for place in SOURCES["beats"].places for file in place.files}
    return BeatsReport(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        labels=len(head["bias"]) if head else 0,
        parameters=sum(tensor.numel() for tensor in state.values()),
        published=sha256_of(Path(path)) in known,
    )


def convert(path: str | Path, out: str | Path) -> BeatsReport:
    """Keep a BEATs file as a safetensors folder, its head too if it has one.

    Raises:
        CheckpointError: As of ``inspect``; or ``out`` exists and is not empty.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise CheckpointError("The output folder is not empty.", got=out)
    report = inspect(path)
    kind = BeatsForAudioTagging if report.labels else BeatsModel
    with torch.no_grad():
        kind.from_checkpoint(path).save_pretrained(out)
    return report
