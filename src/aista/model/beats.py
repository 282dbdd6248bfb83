"""BEATs: the audio encoder beside Whisper, a Transformer over 16 x 16 patches of a Kaldi filterbank.

Written from the facts in the published description of the model and numbers recorded from its checkpoints
(bucketed relative positions with a gate per query, deep norm, a convolution as position embedding). It reads
the published ``{"cfg", "model"}`` files and saves itself as safetensors.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from aista.errors import CheckpointError
from aista.model.configuration import BeatsConfig
from aista.model.weights import load_strictly, read_pickle


class BeatsFeatures(NamedTuple):
    """What BEATs hears.

    Attributes:
        features: (B, P, hidden) one vector per patch, time-major: patch k is mel band k % 8 of time k // 8.
        mask: (B, P) bool, True where the patch is real.
        hidden_states: The position-embedded input and every layer's output, if they were asked for.
    """

    features: Tensor
    mask: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class _PositionConv(nn.Module):
    """A grouped convolution over time, normalised per tap (weight norm over the kernel dimension)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, kernel, groups = config.hidden_size, config.conv_pos, config.conv_pos_groups
        self.kernel, self.groups = kernel, groups
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.scale = nn.Parameter(torch.empty(1, 1, kernel))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, P, hidden) to (B, P, hidden)."""
        weight = self.direction * (self.scale / self.direction.norm(dim=(0, 1), keepdim=True))
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        if config.gated_relative_position:
            self.gate = nn.Linear(width // self.heads, 8)
            self.gate_scale = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor | None, real: Tensor) -> Tensor:
        """Attend from every patch to the real ones; ``bias`` (1, H, P, P), ``real`` (B, P) bool."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mask = torch.zeros((), dtype=query.dtype, device=x.device)
        if bias is not None:
            mask = bias.to(query.dtype)
            if hasattr(self, "gate"):
                update, reset = self.gate(query).unflatten(-1, (2, 4)).sum(-1).sigmoid().split(1, dim=-1)
                mask = (update * (reset * self.gate_scale - 1.0) + 2.0).to(query.dtype) * mask
        # A large finite value: a row without any real patch stays finite and is set to zero at the end.
        mask = mask.masked_fill(~real[:, None, None, :], torch.finfo(query.dtype).min)
        mask = mask.expand(-1, -1, x.shape[1], -1)
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output(y.transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention, self.attention_norm = _Attention(config), nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, config.intermediate_size)
        self.ffn_out = nn.Linear(config.intermediate_size, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.pre_norm = config.layer_norm_first
        self.residual = (2.0 * config.num_hidden_layers) ** 0.25 if config.deep_norm else 1.0

    def _ffn(self, x: Tensor) -> Tensor:
        return self.ffn_out(self.activation_dropout(self.activation(self.ffn_in(x))))

    def forward(self, x: Tensor, bias: Tensor | None, real: Tensor) -> Tensor:
        """Map (B, P, hidden) to (B, P, hidden)."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), bias, real))
            return x + self.dropout(self._ffn(self.ffn_norm(x)))
        x = self.attention_norm(self.residual * x + self.dropout(self.attention(x, bias, real)))
        return self.ffn_norm(self.residual * x + self.dropout(self._ffn(x)))


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Sort distances (key - query) into buckets: exact when near, logarithmic up to ``max_distance``.

    Args:
        distance: Any shape, int64.
        num_buckets: Half of them for keys behind the query, half for keys ahead.
        max_distance: From here on everything shares the last bucket.

    Returns:
        Bucket numbers in [0, num_buckets), same shape.
    """
    half = num_buckets // 2
    exact = half // 2
    far = distance.abs()
    ratio = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, logarithmic) + half * (distance > 0)


class _BeatsPreTrainedModel(PreTrainedModel):
    config_class = BeatsConfig
    config: BeatsConfig
    base_model_prefix = "beats"
    main_input_name = "fbank"
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, _PositionConv):
            std = math.sqrt(4.0 / (module.kernel * self.config.hidden_size))
            nn.init.normal_(module.direction, std=std)
            module.scale.copy_(module.direction.norm(dim=(0, 1), keepdim=True))
            nn.init.zeros_(module.bias)
        elif isinstance(module, _Attention):
            if hasattr(module, "gate_scale"):
                nn.init.ones_(module.gate_scale)
        else:
            super()._init_weights(module)


class BeatsModel(_BeatsPreTrainedModel):
    """The BEATs encoder.

    With ``config.batch_invariant`` (the default) a patch is real only if all of its frames are, so that an
    utterance's features do not depend on what it is batched with, and unreal patches come out as zeros.
    Without it, masks and padded outputs are those of the published code (number parity with SALMONN).
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(
            1, config.patch_embed_dim, patch, stride=patch, bias=config.conv_bias
        )
        self.patch_norm = nn.LayerNorm(config.patch_embed_dim)
        equal = config.patch_embed_dim == width
        self.patch_projection = nn.Identity() if equal else nn.Linear(config.patch_embed_dim, width)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.position_conv = _PositionConv(config)
        self.norm = nn.LayerNorm(width)
        if config.relative_position:
            self.relative_bias = nn.Embedding(config.num_buckets, config.num_attention_heads)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> BeatsModel:
        """Read a published BEATs file, fine-tuned or not (a classification head in it is left aside).

        Args:
            path: The ``.pt`` file: ``{"cfg": dict, "model": state dict}``.

        Raises:
            CheckpointError: The file is unsafe, damaged, or does not hold exactly a BEATs model.
        """
        config, state, _ = read_checkpoint(path)
        return load_strictly(cls(config), state, f"BEATs ({Path(path).name})")

    def position_bias(self, length: int) -> Tensor | None:
        """Return the relative position bias (1, heads, length, length), before any gate."""
        if not self.config.relative_position:
            return None
        place = torch.arange(length, device=self.relative_bias.weight.device)
        reach = torch.arange(1 - length, length, device=place.device)
        table = self.relative_bias(relative_buckets(reach, self.config.num_buckets, self.config.max_distance))
        return table[place[None, :] - place[:, None] + length - 1].permute(2, 0, 1)[None]

    def _patch_mask(self, frame_mask: Tensor, times: int, bands: int) -> Tensor:
        """Turn a frame mask (B, T) into a patch mask (B, times * bands)."""
        if self.config.batch_invariant:
            whole = frame_mask[:, : times * self.config.patch_size].unflatten(1, (times, -1)).all(-1)
            return whole.repeat_interleave(bands, dim=1)
        patches = times * bands
        share = frame_mask.shape[1] // patches
        return frame_mask[:, : share * patches].unflatten(1, (patches, share)).any(-1)

    def forward(
        self, fbank: Tensor, fbank_mask: Tensor | None = None, *, output_hidden_states: bool = False
    ) -> BeatsFeatures:
        """Encode filterbanks.

        Args:
            fbank: (B, T, 128) filterbanks as of ``aista.audio.signal.beats_fbank``, 100 frames per second;
                fewer than one patch (16 frames) are padded with unreal frames.
            fbank_mask: (B, T) bool, True where a frame is real; all of them by default.
            output_hidden_states: Also return the input of the first layer and every layer's output.

        Returns:
            ``features`` (B, P, hidden) with P = 8 * (T // 16), ``mask`` (B, P) bool.
        """
        if fbank_mask is None:
            fbank_mask = torch.ones(fbank.shape[:2], dtype=torch.bool, device=fbank.device)
        fbank_mask = fbank_mask.bool()
        short = max(0, self.config.patch_size - fbank.shape[1])
        fbank, fbank_mask = F.pad(fbank, (0, 0, 0, short)), F.pad(fbank_mask, (0, short))
        if self.config.batch_invariant:
            fbank = fbank * fbank_mask[..., None]
        patches = self.patch_embedding(fbank[:, None].to(self.patch_embedding.weight.dtype))
        real = self._patch_mask(fbank_mask, patches.shape[2], patches.shape[3])
        x = self.patch_projection(self.patch_norm(patches.flatten(2).transpose(1, 2)))
        x = self.input_dropout(x) * real[..., None]
        x = x + self.position_conv(x)
        if not self.config.layer_norm_first:
            x = self.norm(x)
        bias, states = self.position_bias(x.shape[1]), [x]
        for layer in self.layers:
            x = layer(x, bias, real)
            states.append(x)
        if self.config.layer_norm_first:
            x = self.norm(x)
        if self.config.batch_invariant:
            x = x * real[..., None]
        return BeatsFeatures(x, real, tuple(states) if output_hidden_states else None)


@dataclass
class AudioTaggingOutput(ModelOutput):
    """Loss (scalar, if labels were given) and logits (B, num_labels) of a tagger."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class BeatsForAudioTagging(_BeatsPreTrainedModel):
    """BEATs with a linear head whose logits are averaged over the real patches."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(config)
        self.beats = BeatsModel(config)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> BeatsForAudioTagging:
        """Read a fine-tuned BEATs file together with its head.

        Raises:
            CheckpointError: As of ``BeatsModel.from_checkpoint``, or the file has no head.
        """
        config, state, head = read_checkpoint(path)
        if not head:
            raise CheckpointError("This BEATs file has no classification head.", got=path)
        state = {f"beats.{name}": tensor for name, tensor in state.items()}
        state |= {f"classifier.{name}": tensor for name, tensor in head.items()}
        return load_strictly(cls(config), state, f"BEATs ({Path(path).name})")

    def forward(
        self, fbank: Tensor, fbank_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> AudioTaggingOutput:
        """Tag sounds.

        Args:
            fbank: (B, T, 128).
            fbank_mask: (B, T) bool, True where a frame is real.
            labels: (B, num_labels) in [0, 1] (any number of tags each), or (B,) int64 (exactly one each).
        """
        features, mask, _ = self.beats(fbank, fbank_mask)
        logits = self.classifier(self.classifier_dropout(features)) * mask[..., None]
        logits = logits.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        if labels is None:
            return AudioTaggingOutput(logits=logits)
        if labels.ndim == 1:
            return AudioTaggingOutput(F.cross_entropy(logits, labels), logits)
        loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return AudioTaggingOutput(loss, logits)


# Published name -> ours. A setting of training that inference does not need maps to None.
_CFG = {
    "encoder_layers": "num_hidden_layers", "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size", "encoder_attention_heads": "num_attention_heads",
    "activation_fn": "hidden_act", "dropout": "hidden_dropout", "dropout_input": "input_dropout",
    "relative_position_embedding": "relative_position", "gru_rel_pos": "gated_relative_position",
    "input_patch_size": "patch_size", "embed_dim": "patch_embed_dim",
    "predictor_dropout": "classifier_dropout", "predictor_class": "num_labels",
    "finetuned_model": None, "encoder_layerdrop": None, "layer_wise_gradient_decay_ratio": None,
}  # fmt: skip
_SAME = ("attention_dropout", "activation_dropout", "layer_norm_first", "conv_bias", "conv_pos",
         "conv_pos_groups", "num_buckets", "max_distance", "deep_norm")  # fmt: skip
_CFG |= dict(zip(_SAME, _SAME, strict=True))
# What the published code assumes where a file's cfg is silent: not the fine-tuned model's values.
_CFG_DEFAULTS: dict[str, Any] = {
    "deep_norm": False, "max_distance": 1280, "relative_position": False, "gated_relative_position": False,
}  # fmt: skip
_STEMS = {
    "patch_embedding": "patch_embedding", "layer_norm": "patch_norm",
    "post_extract_proj": "patch_projection", "encoder.layer_norm": "norm",
}  # fmt: skip
_LAYER_STEMS = {
    "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value", "self_attn.out_proj": "attention.output",
    "self_attn.grep_linear": "attention.gate", "self_attn_layer_norm": "attention_norm",
    "fc1": "ffn_in", "fc2": "ffn_out", "final_layer_norm": "ffn_norm",
}  # fmt: skip
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
    cfg, published = content.get("cfg"), content.get("model")
    if not isinstance(cfg, dict) or not isinstance(published, dict):
        raise CheckpointError(
            "This is not a BEATs checkpoint.",
            got=f"{path} with the keys {sorted(map(str, content))[:8]}",
            expected="a dictionary with 'cfg' and 'model'",
        )
    state: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, tensor in published.items():
        if name.startswith("predictor."):
            head[name.removeprefix("predictor.")] = tensor.float()
            continue
        ours = _our_name(name)
        if ours in state and not torch.equal(state[ours], tensor.float()):
            raise CheckpointError("The layers' shared relative position tables differ.", got=name)
        state[ours] = tensor.float()
    if unknown := sorted(name for name in cfg if name not in _CFG):
        warnings.warn(f"Settings of this BEATs file that are not known here: {unknown}", stacklevel=2)
    if cfg.get("deep_norm") and cfg.get("layer_norm_first"):
        raise CheckpointError("A BEATs file cannot have both deep_norm and layer_norm_first.")
    settings = _CFG_DEFAULTS | {ours: cfg[name] for name, ours in _CFG.items() if ours and name in cfg}
    if settings.get("hidden_act", "gelu") not in ("gelu", "relu"):
        raise CheckpointError("This BEATs activation is not supported.", got=settings["hidden_act"])
    return BeatsConfig(**settings), state, head


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
