"""Building a speech LLM on its bases, saving what was trained of it, and loading that again."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Blip2QFormerConfig

from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.errors import CheckpointError, ConfigError
from aista.model import bases
from aista.model.backbones import family as backbone_family
from aista.model.configuration import AistaConfig
from aista.model.projection import TOKEN_SCALES, embedding_length
from aista.model.spans import end_token_id, suitable_template
from aista.model.weights import fingerprint

if TYPE_CHECKING:
    from aista.model.speech_lm import AistaForConditionalGeneration

Model = TypeVar("Model", bound="AistaForConditionalGeneration")

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# SALMONN's: BERT-base with two layers and a cross-attention in each.
QFORMER = {"num_hidden_layers": 2, "cross_attention_frequency": 1}
_WINDOW_SETTINGS = ("frames_per_window", "queries_per_window")


def default_dtype() -> torch.dtype:
    """Return the type bases are loaded in unless told otherwise: bfloat16 on a GPU, else float32."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def configure(
    speech_encoder: str,
    backbone: str,
    audio_encoder: str | None = None,
    *,
    qformer: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
    speech_tokens: str = "voiced",
    speech_window_seconds: float | None = None,
    position_ids: str = "mask",
    template: str | None = None,
    family: str | None = None,
    batch_invariant: bool = True,
    seed: int = 0,
) -> AistaConfig:
    """Describe a model on three bases, without loading weights.

    Args:
        speech_encoder: Folder or hub id of a Whisper-class model, or ``aista:NAME``.
        backbone: The same of a causal LM.
        audio_encoder: A BEATs file or folder, or None.
        qformer: Settings of ``Blip2QFormerConfig`` that differ from SALMONN's, and ``frames_per_window`` and
            ``queries_per_window``.
        lora: ``r``, ``alpha``, ``dropout``, ``targets``.
        speech_tokens, speech_window_seconds, position_ids, template, family: See ``AistaConfig``; by default
            the family's template, or where the backbone lacks its tags one without them.
        batch_invariant: False: BEATs treats padding as SALMONN does.
        seed: Of the trainable parts.

    Raises:
        CheckpointError: A base is nowhere, or of another kind.
        ConfigError: A setting is unknown or fits nothing.
    """
    named = {"speech_encoder": speech_encoder, "audio_encoder": audio_encoder, "backbone": backbone}
    given = {role: bases.describe(str(source)) for role, source in named.items() if source is not None}
    paths = {role: bases.locate(base["source"], revision=base["revision"]) for role, base in given.items()}
    text_config = bases.read_config(paths["backbone"]).get_text_config()
    tokenizer = bases.load_tokenizer(paths["backbone"])
    template = suitable_template(
        tokenizer, template, backbone_family(family or text_config.model_type).template
    )
    speech_config = bases.speech_config(paths["speech_encoder"])
    if speech_window_seconds is not None:
        speech_config.max_source_positions = positions_of(speech_window_seconds, speech_config)
    audio_config = bases.audio_config(paths["audio_encoder"]) if audio_encoder else None
    if audio_config is not None:
        audio_config.batch_invariant = batch_invariant
    end = end_token_id(tokenizer, template)
    inner = dict(qformer or {})
    window = {name: inner.pop(name) for name in _WINDOW_SETTINGS if name in inner}
    return AistaConfig(
        speech_config=speech_config,
        audio_config=audio_config,
        qformer_config=qformer_config(inner, speech_config, audio_config),
        text_config=text_config,
        lora=lora,
        bases=given,
        speech_tokens=speech_tokens,
        speech_window_seconds=speech_window_seconds,
        position_ids=position_ids,
        template=template,
        family=family,
        end_token_id=end,
        pad_token_id=end,
        seed=seed,
        **window,
    )


def positions_of(window_seconds: float, speech_config: Any) -> int:
    """Return how many of a speech encoder's positions a shorter input takes.

    Raises:
        ConfigError: It is longer than the encoder's own, or holds no position.
    """
    positions = round(window_seconds * SAMPLE_RATE_HZ / SAMPLES_PER_FRAME)
    most = speech_config.max_source_positions
    if not 0 < positions <= most:
        raise ConfigError(
            "speech_window_seconds does not fit the speech encoder.",
            got=window_seconds,
            expected=f"above 0, at most {most * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ:g} s",
        )
    return positions


def qformer_config(settings: dict[str, Any], speech_config: Any, audio_config: Any) -> Blip2QFormerConfig:
    """Return the window Q-Former's configuration: SALMONN's, changed by ``settings``.

    Raises:
        ConfigError: A setting is unknown.
    """
    known = set(Blip2QFormerConfig().to_dict()) - {"encoder_hidden_size"}
    if unknown := sorted(set(settings) - known):
        raise ConfigError("Unknown settings of the window Q-Former.", got=unknown)
    width = speech_config.d_model + (audio_config.hidden_size if audio_config else 0)
    return Blip2QFormerConfig(**QFORMER | settings, encoder_hidden_size=width)


def load_parts(
    config: AistaConfig,
    *,
    dtype: torch.dtype | str | None = None,
    quantization: str | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    beside: Path | None = None,
) -> dict[str, Any]:
    """Load the frozen bases that a configuration names."""
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or default_dtype()
    paths = locate_bases(config, beside)
    audio = bases.load_audio_encoder(paths["audio_encoder"]) if "audio_encoder" in paths else None
    if audio is not None:
        audio.config.batch_invariant = config.audio_config.batch_invariant
    backbone = bases.load_backbone(
        paths["backbone"],
        dtype,
        quantization=quantization,
        device_map=device_map,
        attn_implementation=attn_implementation,
    )
    if config.extra_rows:
        bases.append_rows(backbone, config.extra_rows)
    return {
        "speech_encoder": bases.load_speech_encoder(
            paths["speech_encoder"], dtype, positions=config.speech_config.max_source_positions
        ),
        "audio_encoder": audio,
        "backbone": backbone,
    }


def locate_bases(config: AistaConfig, beside: Path | None = None) -> dict[str, Path]:
    """Find every base of a configuration."""
    return {
        role: bases.locate(base["source"], revision=base.get("revision"), beside=beside)
        for role, base in (config.bases or {}).items()
    }


def from_bases(
    cls: type[Model],
    speech_encoder: str,
    backbone: str,
    audio_encoder: str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    quantization: str | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    speech_token_scale: str = "free",
    **settings: Any,
) -> Model:
    """Build a model on frozen bases, its trainable parts drawn from a seed.

    Args:
        speech_encoder, backbone, audio_encoder, settings: As for ``configure``.
        dtype: Of the frozen speech encoder and backbone (BEATs and everything trained are float32);
            bfloat16 on a GPU and float32 elsewhere by default.
        quantization: ``4bit`` or ``8bit`` for the backbone.
        device_map, attn_implementation: Handed to transformers for the backbone.
        speech_token_scale: ``free``: speech tokens are what the projection gives; ``embeddings``: they are as
            long as this backbone's token embeddings.
    """
    if speech_token_scale not in TOKEN_SCALES:
        raise ConfigError(
            "Unknown speech_token_scale.", got=speech_token_scale, expected=" or ".join(TOKEN_SCALES)
        )
    config = configure(speech_encoder, backbone, audio_encoder, **settings)
    for role, path in locate_bases(config).items():
        config.bases[role]["fingerprint"] = bases.identify(role, path)
    parts = load_parts(
        config,
        dtype=dtype,
        quantization=quantization,
        device_map=device_map,
        attn_implementation=attn_implementation,
    )
    if speech_token_scale == "embeddings":
        config.speech_token_length = embedding_length(parts["backbone"].get_input_embeddings())
    return _on_one_device(cls(config, **parts))


def _on_one_device(model: Model) -> Model:
    """Bring the audio side to where the backbone, wherever a device map put it, takes its embeddings."""
    device: Any = model.get_input_embeddings().weight.device
    parts: list[Any] = [model.speech_encoder, model.audio_encoder, model.window_qformer]
    for part in parts:
        if part is not None:
            part.to(device)
    return model


def save_pretrained(
    model: AistaForConditionalGeneration, folder: str | Path, state: dict[str, Tensor] | None = None
) -> None:
    """Save the configuration and the trained tensors, and nothing of the bases.

    Args:
        folder: Made if it does not exist; files appear whole or not at all.
        state: A full state dict to take the tensors from (of a sharded model), instead of the model's own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own = model.trainable_state_dict()
    chosen = own if state is None else {name: state[name] for name in own}
    write_trained(folder, {name: tensor.detach().cpu().contiguous() for name, tensor in chosen.items()})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def write_trained(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write trained tensors as ``read_trained`` checks them; the file appears whole or not at all."""
    partial = folder / f".{WEIGHTS}.partial"
    metadata = {"format": "pt", "fingerprint": fingerprint(tensors.items(), whole=True)}
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, folder / WEIGHTS)


def read_checkpoint_config(folder: Path) -> AistaConfig:
    """Read the configuration of a saved model.

    Raises:
        CheckpointError: The folder holds none of ours.
    """
    try:
        content = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError as error:
        raise CheckpointError("This folder holds no saved model.", got=folder, expected=CONFIG) from error
    except json.JSONDecodeError as error:
        raise CheckpointError("The configuration is damaged.", got=f"{folder / CONFIG}: {error}") from error
    if content.get("model_type") != AistaConfig.model_type:
        raise CheckpointError(
            "This folder holds another kind of model.",
            got=content.get("model_type"),
            expected=AistaConfig.model_type,
            advice="Build on it with from_bases, or import it with 'aista import'.",
        )
    return AistaConfig.from_dict(content)


def read_trained(folder: Path) -> dict[str, Tensor]:
    """Read the trained tensors of a saved model, and check that they are as they were saved.

    Raises:
        CheckpointError: They are missing, damaged or changed.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError("The trained weights are missing.", expected=path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            saved = (file.metadata() or {}).get("fingerprint")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "The trained weights are damaged or cut short.", got=f"{path}: {error}"
        ) from error
    if saved is not None and fingerprint(tensors.items(), whole=True) != saved:
        raise CheckpointError(
            "The trained weights were changed after they were saved.",
            got=path,
            advice="Take the file from where it was saved.",
        )
    return tensors


def from_pretrained(
    cls: type[Model],
    folder: str | Path,
    *,
    replace_bases: dict[str, str] | None = None,
    check_bases: bool = True,
    dtype: torch.dtype | str | None = None,
    quantization: str | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    **_: Any,
) -> Model:
    """Load a saved model onto its bases.

    Args:
        folder: What ``save_pretrained`` wrote, or a hub id.
        replace_bases: Where the bases lie on this machine, by role, if not where they lay.
        check_bases: Refuse bases with another fingerprint. (With False they are taken with a warning.)
        dtype, quantization, device_map, attn_implementation: As for ``from_bases``.

    Raises:
        CheckpointError: Weights are missing, superfluous, misshapen or damaged; a base is nowhere, or is not
            the one that this model was trained on.
    """
    folder = bases.locate(str(folder))
    config = read_checkpoint_config(folder)
    _require_known_family(config.family)
    for role, source in (replace_bases or {}).items():
        if role not in config.bases:
            raise ConfigError("This model has no such base.", got=role, expected=list(config.bases or {}))
        config.bases[role] |= bases.describe(str(source))
    for role, path in locate_bases(config, folder).items():
        _require_same_base(role, path, config.bases[role].get("fingerprint"), strict=check_bases)
    trained = read_trained(folder)
    parts = load_parts(
        config,
        dtype=dtype,
        quantization=quantization,
        device_map=device_map,
        attn_implementation=attn_implementation,
        beside=folder,
    )
    model = _on_one_device(cls(config, **parts))
    model.load_trainable(trained)
    return model


def _require_known_family(name: str | None) -> None:
    """A file must not decide which module gets imported: a third party's family is imported by the user."""
    if name and "." in name and name not in sys.modules:
        raise CheckpointError(
            "This model uses a backbone family of another package.",
            got=name,
            advice=f"If you trust it: import {name}",
        )


def _require_same_base(role: str, path: Path, expected: str | None, *, strict: bool) -> None:
    found = bases.identify(role, path)
    if expected is None or found == expected:
        return
    what = f"The {role.replace('_', ' ')} is not the one that this model was trained on."
    if not strict:
        warnings.warn(f"{what} ({path})", stacklevel=4)
        return
    raise CheckpointError(
        what,
        got=f"{path} with fingerprint {found[:23]}…",
        expected=f"{expected[:23]}…",
        advice=f"Give the right one: replace_bases={{'{role}': PATH}}.",
    )
