"""The published BEATs files, ``{"cfg", "model"}``, read into our names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aista.errors import CheckpointError
from aista.model.configuration import BeatsConfig
from aista.model.weights import read_pickle

# Published name -> ours. A setting of training that inference does not need maps to None.
_CFG = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "activation_fn": "hidden_act",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "input_dropout",
    "layer_norm_first": "layer_norm_first",
    "conv_bias": "conv_bias",
    "conv_pos": "conv_pos",
    "conv_pos_groups": "conv_pos_groups",
    "relative_position_embedding": "relative_position",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "gru_rel_pos": "gated_relative_position",
    "deep_norm": "deep_norm",
    "input_patch_size": "patch_size",
    "embed_dim": "patch_embed_dim",
    "predictor_dropout": "classifier_dropout",
    "predictor_class": "num_labels",
    "finetuned_model": None,
    "encoder_layerdrop": None,
    "layer_wise_gradient_decay_ratio": None,
}
# What the published code assumes where a file's cfg is silent (they differ from the fine-tuned model's
# values).
_CFG_DEFAULTS: dict[str, Any] = {
    "deep_norm": False,
    "max_distance": 1280,
    "relative_position": False,
    "gated_relative_position": False,
}
_STEMS = {
    "patch_embedding": "patch_embedding",
    "layer_norm": "patch_norm",
    "post_extract_proj": "patch_projection",
    "encoder.layer_norm": "norm",
}
_LAYER_STEMS = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.output",
    "self_attn.grep_linear": "attention.gate",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "ffn_in",
    "fc2": "ffn_out",
    "final_layer_norm": "ffn_norm",
}
_CONV = {"weight_g": "scale", "weight_v": "direction", "bias": "bias"}


def read_checkpoint(path: str | Path) -> tuple[BeatsConfig, dict[str, Tensor], dict[str, Tensor]]:
    """Read a published BEATs file into our names.

    Returns:
        The configuration, the encoder's tensors and the classification head's (empty without one).

    Raises:
        CheckpointError: The file is unsafe, damaged or not of this layout, or its layers disagree about the
            relative position table that they share.
    """
    content = read_pickle(path)
    if not isinstance(content.get("cfg"), dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(
            "This is not a BEATs checkpoint.",
            got=f"{path} with the keys {sorted(map(str, content))[:8]}",
            expected="a dictionary with 'cfg' and 'model'",
        )
    state: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, tensor in content["model"].items():
        if name.startswith("predictor."):
            head[name.removeprefix("predictor.")] = tensor.float()
            continue
        ours = _our_name(name)
        if ours in state and not torch.equal(state[ours], tensor.float()):
            raise CheckpointError("The layers' shared relative position tables differ.", got=name)
        state[ours] = tensor.float()
    return _read_cfg(content["cfg"]), state, head


def _read_cfg(cfg: dict[str, Any]) -> BeatsConfig:
    unknown = sorted(name for name in cfg if name not in _CFG)
    if unknown:
        warnings.warn(f"Settings of this BEATs file that are not known here: {unknown}", stacklevel=3)
    if cfg.get("deep_norm") and cfg.get("layer_norm_first"):
        raise CheckpointError("A BEATs file cannot have both deep_norm and layer_norm_first.")
    settings = dict(_CFG_DEFAULTS)
    settings |= {ours: cfg[name] for name, ours in _CFG.items() if ours and name in cfg}
    if settings.get("hidden_act", "gelu") not in ("gelu", "relu"):
        raise CheckpointError("This BEATs activation is not supported.", got=settings["hidden_act"])
    return BeatsConfig(**settings)


def _our_name(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in _STEMS:
        return f"{_STEMS[stem]}.{leaf}"
    if stem == "encoder.pos_conv.0" and leaf in _CONV:
        return f"position_conv.{_CONV[leaf]}"
    parts = name.split(".")
    if parts[:2] != ["encoder", "layers"] or len(parts) < 4:
        return name  # unknown: require_match names it
    inner = ".".join(parts[3:-1])
    if inner == "self_attn.relative_attention_bias":
        return "relative_bias.weight"  # one table, repeated under every layer
    if inner == "self_attn" and leaf == "grep_a":
        return f"layers.{parts[2]}.attention.gate_scale"
    return f"layers.{parts[2]}.{_LAYER_STEMS.get(inner, inner)}.{leaf}"
