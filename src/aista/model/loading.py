"""What a speech LLM is built from, and what is kept of it: its configuration, bases and trained tensors.

The model class itself is not known here: it asks for parts and puts them together.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import BitsAndBytesConfig, Blip2QFormerConfig

from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.config import Dtype
from aista.errors import CheckpointError, ConfigError
from aista.files import draft_of
from aista.model import bases
from aista.model.backbones import family as backbone_family
from aista.model.configuration import AistaConfig
from aista.model.weights import fingerprint, unlikeness
from aista.text.prompts import end_token_id, suitable_template

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
BASES = "AISTA_BASES"
ALIKE = 0.2  # the largest difference of values between the same weights in two precisions
# SALMONN's: BERT-base with two layers and a cross-attention in each.
QFORMER = {"num_hidden_layers": 2, "cross_attention_frequency": 1}


def default_dtype() -> torch.dtype:
    """Return the type bases are loaded in unless told otherwise: bfloat16 on a GPU, else float32."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


@dataclass(frozen=True)
class Options:
    """How bases are loaded.

    Attributes:
        dtype: Of the frozen speech encoder and backbone (BEATs and everything trained are float32); None:
            ``default_dtype``.
        quantization: ``4bit`` or ``8bit`` for the backbone.
        device_map, attn_implementation: Handed to transformers for the backbone.
    """

    dtype: torch.dtype | str | None = None
    quantization: str | None = None
    device_map: Any = None
    attn_implementation: str | None = None

    @classmethod
    def pop(cls, given: dict[str, Any]) -> Options:
        """Take the fields out of a call's keyword arguments."""
        return cls(**{field.name: given.pop(field.name) for field in fields(cls) if field.name in given})

    def to_dict(self) -> dict[str, Any]:
        """Return them as ``from_pretrained`` of transformers takes them.

        Raises:
            ConfigError: The quantisation or the type is unknown.
        """
        dtype = self.dtype or default_dtype()
        if isinstance(dtype, str):
            if dtype not in get_args(Dtype):
                raise ConfigError("Unknown dtype.", got=dtype, expected=", ".join(get_args(Dtype)))
            dtype = getattr(torch, dtype)
        given: dict[str, Any] = {"dtype": dtype, "device_map": self.device_map}
        if self.attn_implementation:
            given["attn_implementation"] = self.attn_implementation
        if self.quantization == "8bit":
            given["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        elif self.quantization == "4bit":
            four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
            given["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, **four)
        elif self.quantization:
            raise ConfigError("Unknown quantisation.", got=self.quantization, expected="4bit or 8bit")
        return given


def configure(
    speech_encoder: str,
    backbone: str,
    audio_encoder: str | None = None,
    *,
    qformer: dict[str, Any] | None = None,
    template: str | None = None,
    batch_invariant: bool = True,
    **settings: Any,
) -> AistaConfig:
    """Describe a model on three bases, without loading weights.

    Args:
        speech_encoder: Folder or hub id of a Whisper-class model, or ``aista:NAME``.
        backbone: The same of a causal LM.
        audio_encoder: A BEATs file or folder, or None.
        qformer: Settings of ``Blip2QFormerConfig`` that differ from SALMONN's, and ``frames_per_window`` and
            ``queries_per_window``.
        template: Prompt template; None: the one of the backbone's family, or where the backbone lacks its
            tags one without them.
        batch_invariant: False: BEATs treats padding as SALMONN does.
        settings: Of ``AistaConfig``: ``lora``, ``speech_tokens``, ``speech_window_seconds``,
            ``position_ids``, ``family``, ``extra_rows``, ``seed``.

    Raises:
        CheckpointError: A base is nowhere, or of another kind.
        ConfigError: A setting is unknown or fits nothing.
    """
    if unknown := sorted(set(settings) - set(AistaConfig.__annotations__)):
        raise ConfigError("Unknown settings of the model.", got=unknown)
    named = zip(bases.ROLES, (speech_encoder, audio_encoder, backbone), strict=True)
    given = {role: bases.describe(str(source)) for role, source in named if source is not None}
    paths = {role: bases.locate(base["source"], revision=base["revision"]) for role, base in given.items()}
    text_config = bases.text_config(paths["backbone"])
    tokenizer = bases.load_tokenizer(paths["backbone"])
    own = backbone_family(settings.get("family") or text_config.model_type).template
    require_rows(tokenizer, text_config.vocab_size + settings.get("extra_rows", 0), paths["backbone"])
    template = suitable_template(tokenizer, template, own)
    speech_config = bases.speech_config(paths["speech_encoder"])
    bases.load_feature_extractor(paths["speech_encoder"])  # refuses one of another encoder
    if (seconds := settings.get("speech_window_seconds")) is not None:
        positions, most = (
            round(seconds * SAMPLE_RATE_HZ / SAMPLES_PER_FRAME),
            speech_config.max_source_positions,
        )
        if not 0 < positions <= most:
            raise ConfigError(
                "speech_window_seconds does not fit the speech encoder.",
                got=seconds,
                expected=f"above 0, at most {most * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ:g} s",
            )
        speech_config.max_source_positions = positions
    audio_config = bases.audio_config(paths["audio_encoder"]) if audio_encoder else None
    if audio_config is not None:
        audio_config.batch_invariant = batch_invariant
    end = end_token_id(tokenizer, template)
    inner = dict(qformer or {})
    window = {name: inner.pop(name) for name in ("frames_per_window", "queries_per_window") if name in inner}
    return AistaConfig(
        speech_config=speech_config,
        audio_config=audio_config,
        qformer_config=qformer_config(inner, speech_config, audio_config),
        text_config=text_config,
        bases=given,
        template=template,
        end_token_id=end,
        pad_token_id=end,
        audio_token_id=spare_token_id(tokenizer, text_config.vocab_size),
        **settings,
        **window,
    )


def require_rows(tokenizer: Any, rows: int, path: Path) -> None:
    """Demand that a backbone has an embedding for every token that a text can become.

    A padding token may lie beyond: SALMONN's and others' tokenizers add one that is never looked up.

    Raises:
        CheckpointError: The tokenizer is larger than the embedding.
    """
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    beyond.pop(tokenizer.pad_token_id, None)
    if beyond:
        raise CheckpointError(
            "The tokenizer has tokens that the backbone has no embedding for.",
            got=f"{len(beyond)}, the first {beyond[min(beyond)]!r} with number {min(beyond)}, in {path}",
            expected=f"numbers below {rows}",
            advice="Are tokenizer and weights of one model? Take both from one download.",
        )


def spare_token_id(tokenizer: Any, vocabulary: int) -> int | None:
    """Return the first row of a backbone's vocabulary that its tokenizer never uses; None: there is none."""
    unused = max(tokenizer.get_vocab().values()) + 1
    return unused if unused < vocabulary else None


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


def load_parts(config: AistaConfig, options: Options, *, beside: Path | None = None) -> dict[str, Any]:
    """Load the frozen bases that a configuration names: the parts of the model's constructor."""
    given, paths = options.to_dict(), locate_bases(config, beside)
    dtype, positions = given.pop("dtype"), config.speech_config.max_source_positions
    audio = bases.load_audio_encoder(paths["audio_encoder"]) if "audio_encoder" in paths else None
    if audio is not None:
        audio.config.batch_invariant = config.audio_config.batch_invariant
    backbone: Any = bases.load_backbone(paths["backbone"], dtype, **given)
    if config.extra_rows:  # of zeros, after the vocabulary
        rows = backbone.get_input_embeddings().num_embeddings
        with torch.no_grad():
            backbone.resize_token_embeddings(rows + config.extra_rows, mean_resizing=False)
            backbone.get_input_embeddings().weight[rows:] = 0
            backbone.get_output_embeddings().weight[rows:] = 0
    speech = bases.load_speech_encoder(paths["speech_encoder"], dtype, positions=positions)
    return {"speech_encoder": speech, "audio_encoder": audio, "backbone": backbone}


def locate_bases(config: AistaConfig, beside: Path | None = None) -> dict[str, Path]:
    """Find every base of a configuration."""
    return {
        role: bases.locate(base["source"], revision=base.get("revision"), beside=beside)
        for role, base in (config.bases or {}).items()
    }


def move_bases(config: AistaConfig, places: dict[str, str] | None) -> None:
    """Write into a configuration where its bases lie on this machine, by role."""
    for role, place in (places or {}).items():
        if role not in (config.bases or {}):
            raise ConfigError("This model has no such base.", got=role, expected=list(config.bases or {}))
        config.bases[role] |= bases.describe(str(place))


def identify_bases(config: AistaConfig) -> None:
    """Write the fingerprints of the bases into a configuration."""
    for role, path in locate_bases(config).items():
        config.bases[role]["fingerprint"] = bases.identify(role, path)


def save_checkpoint(config: AistaConfig, trained: dict[str, Tensor], folder: Path) -> None:
    """Save a configuration and trained tensors; files appear whole or not at all.

    The bases are named by their paths and by their places beside the folder, so that both can be moved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for base in (config.bases or {}).values():
        if os.path.isabs(base["source"]):
            base["beside"] = Path(os.path.relpath(base["source"], folder.resolve())).as_posix()
    write_trained(folder, {name: tensor.detach().cpu().contiguous() for name, tensor in trained.items()})
    config.save_pretrained(folder)


def write_trained(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write trained tensors as ``read_trained`` checks them; the file appears whole or not at all."""
    metadata = {"fingerprint": fingerprint(tensors.items(), whole=True)}  # one key: more come in random order
    with draft_of(folder / WEIGHTS) as draft:
        save_file(tensors, draft, metadata=metadata)


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
    config = AistaConfig.from_dict(content)
    named = moved_bases()
    for role, base in (config.bases or {}).items():
        beside = folder.resolve() / base.get("beside", "")
        if role in named:
            base |= bases.describe(named[role])
        elif base.get("beside") and not Path(base["source"]).exists() and beside.exists():
            base["source"] = str(beside.resolve())
    return config


def moved_bases() -> dict[str, str]:
    """Return where bases lie on this machine, by role: ``AISTA_BASES=backbone=PATH:speech_encoder=PATH``.

    Raises:
        ConfigError: It names no base, or a role that no model has.
    """
    text = os.environ.get(BASES, "")
    named = dict(part.partition("=")[::2] for part in text.split(os.pathsep) if part)
    if wrong := [role for role, path in named.items() if role not in bases.ROLES or not path]:
        raise ConfigError(
            f"Cannot read where bases lie ({BASES}, --base).",
            got=", ".join(wrong),
            expected="ROLE=PATH, ROLE one of " + ", ".join(bases.ROLES),
        )
    return named


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


def open_checkpoint(
    folder: Path, replace_bases: dict[str, str] | None = None, check_bases: bool = True
) -> tuple[AistaConfig, dict[str, Tensor]]:
    """Read the configuration and the trained tensors of a saved model, and look at the bases it names.

    Args:
        folder: What ``save_checkpoint`` wrote.
        replace_bases: Where the bases lie on this machine, by role, if not where they lay.
        check_bases: Refuse bases with another fingerprint. (With False they are taken with a warning.)

    Raises:
        CheckpointError: Weights are missing or damaged; a base is nowhere, or is another one.
    """
    config = read_checkpoint_config(folder)
    if config.family and "." in config.family and config.family not in sys.modules:
        # A file must not decide which module gets imported.
        raise CheckpointError(
            "This model uses a backbone family of another package.",
            got=config.family,
            advice=f"If you trust it, import {config.family} before: docs/guides/own-backbone.md says how a "
            "command does.",
        )
    move_bases(config, replace_bases)
    try:
        located = locate_bases(config, folder)
    except CheckpointError as error:
        moved = "--base backbone=PATH (in Python: replace_bases={'backbone': PATH})"
        where = f"{error.advice or ''} Of a model that was moved, say where its bases lie: {moved}."
        raise CheckpointError(error.what, got=error.got, advice=where.strip()) from error
    for role, path in located.items():
        if (differs := _difference(role, path, config.bases[role])) is None:
            continue
        what = f"The {role.replace('_', ' ')} is not the one that this model was trained on."
        if check_bases:
            raise CheckpointError(
                what,
                got=f"{path} with {differs[0]}",
                expected=differs[1],
                advice=f"Give the right one: --base {role}=PATH"
                f" (in Python: replace_bases={{'{role}': PATH}}).",
            )
        warnings.warn(f"{what} ({path})", stacklevel=3)
    return config, read_trained(folder)


def _difference(role: str, path: Path, named: dict[str, Any]) -> tuple[str, str] | None:
    """Return what a base has and what it should have, if it is not the one that a model was trained on."""
    if looks := named.get("likeness"):  # of a model that is shipped without its bases: in any precision
        far = unlikeness(bases.used_tensors(role, path), looks)
        return None if far <= ALIKE else (f"values {far:.0%} off", f"at most {ALIKE:.0%}, for 4-bit weights")
    found, expected = bases.identify(role, path), named.get("fingerprint")
    if expected in (None, found):
        return None
    return f"fingerprint {found[:23]}…", f"{expected[:23]}…"
