"""Make the model that ``aista.load("base")`` finds, from a run at base scale.

    python tools/ship_base.py runs/base/runs/base/ai_sta/seed_1

Trained tensors are kept in half precision. The bases are named by their hub ids and known by a few of their
values, so that they are found again in any precision. The card beside them is written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from aista.model import bases, loading
from aista.model.weights import likeness

SHIPPED = Path(__file__).parent.parent / "src/aista/demo/weights/base"
HUB = {"speech_encoder": "openai/whisper-base", "backbone": "Qwen/Qwen2.5-Coder-0.5B-Instruct"}


def ship(run: Path, folder: Path = SHIPPED) -> None:
    """Write a trained model without any path of this machine in it.

    Args:
        run: What a training left. folder: Where it is to lie.
    """
    config, trained = loading.open_checkpoint(run)
    paths = loading.locate_bases(config, run)
    config.bases = {
        role: {"source": source, "likeness": likeness(bases.used_tensors(role, paths[role]))}
        for role, source in HUB.items()
    }
    for part, role in ((config.speech_config, "speech_encoder"), (config.text_config, "backbone")):
        part.name_or_path = HUB[role]
        vars(part).pop("_model_name_or_path", None)
    loading.save_checkpoint(config, {name: value.half() for name, value in trained.items()}, folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {sum(map(torch.numel, trained.values())):,} parameters, {size:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    ship(parser.parse_args().run)
