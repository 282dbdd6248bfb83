"""LoRA on the backbone: the one file that knows peft."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from aista.errors import ConfigError


def is_lora(name: str) -> bool:
    """Say whether a parameter name belongs to a LoRA matrix."""
    return ".lora_" in name


def add_lora(backbone: nn.Module, settings: dict[str, Any], targets: Iterable[str]) -> None:
    """Put LoRA matrices beside the targeted linear layers, in place; everything else is frozen.

    Args:
        backbone: A causal LM, quantised or not.
        settings: ``r``, ``alpha``, ``dropout``; ``targets``, if they were chosen: each has to be there.
        targets: Names of the layers to adapt. None of them: no LoRA at all.

    Raises:
        ConfigError: No layer has such a name, or LoRA cannot be put into it.

    A is drawn from the current random state, B is zero: the adapted model starts as the backbone itself. The
    matrices are float32 whatever the backbone's type.
    """
    backbone.requires_grad_(False)
    targets = list(targets)
    if not targets or settings["r"] == 0:
        return
    parts = [(f".{name}", part) for name, part in backbone.named_modules()]
    absent = [target for target in targets if not any(name.endswith(f".{target}") for name, _ in parts)]
    if absent and (settings.get("targets") or absent == targets):  # a family's names are those of most models
        weights = [(name, getattr(part, "weight", None)) for name, part in parts]
        matrices = {name.rpartition(".")[2] for name, w in weights if w is not None and w.dim() == 2}
        raise ConfigError(  # peft does with the names that it finds, and says nothing of the others
            "LoRA cannot be put into these layers of this backbone.",
            got=f"{', '.join(absent)}: no layer is called so",
            expected=", ".join(sorted(matrices)),
            advice="Name them in lora.targets or in a family file (docs/guides/own-backbone.md).",
        )
    config = LoraConfig(
        r=settings["r"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=targets,
        bias="none",
    )
    try:
        with warnings.catch_warnings():  # GPT-2: peft sets it right itself
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set")
            inject_adapter_in_model(config, backbone)
    except ValueError as error:
        raise ConfigError(
            "LoRA cannot be put into these layers of this backbone.",
            got=f"{', '.join(targets)}: {error}",
            advice="Name them in lora.targets or in a family file (docs/guides/own-backbone.md).",
        ) from error
    for name, parameter in backbone.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(is_lora(name))


@torch.no_grad()
def merge(model: Any) -> None:
    """Fold every LoRA matrix of a model into its layer, in place: no LoRA is left.

    Raises:
        ConfigError: A layer is quantised, so that nothing can be folded into it exactly.
    """
    layers = {name: part for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)}
    for name, layer in layers.items():
        base: Any = layer.get_base_layer()
        if not base.weight.is_floating_point():
            raise ConfigError(
                "LoRA cannot be merged into a quantised layer.", got=name, advice="Load it unquantised."
            )
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, base)
    for part in model.modules():  # what peft and transformers noted down
        part.__dict__.pop("peft_config", None)
        if getattr(part, "_hf_peft_config_loaded", False):
            part._hf_peft_config_loaded = False


@contextmanager
def switched(backbone: nn.Module, on: bool) -> Iterator[None]:
    """With ``on`` false: let the backbone run as it was before LoRA, for a while and without gradient."""
    layers = [] if on else [module for module in backbone.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:  # peft's own enable_adapters also changes requires_grad, in the middle of a step
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def to_base_dtype(model: nn.Module) -> None:
    """Round LoRA matrices to the type of the 16-bit layers beside them, in place: where none is trained.

    It is the arithmetic of training under autocast, without casting every input up and every output down,
    which takes a fifth of an answer's time. Beside other layers they stay as they are.
    """
    for layer in (part for part in model.modules() if isinstance(part, BaseTunerLayer)):
        base: Any = layer.get_base_layer()
        like = next(base.parameters(), None)  # None: quantised into buffers
        if like is not None and like.dtype in (torch.bfloat16, torch.float16):
            for name, parameter in layer.named_parameters():
                if is_lora(f".{name}"):
                    parameter.data = parameter.data.to(like.dtype)
