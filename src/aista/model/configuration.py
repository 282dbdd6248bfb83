"""Configurations: BEATs, and the speech LLM built of an encoder or two, a window Q-Former and a backbone."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Blip2QFormerConfig, PreTrainedConfig, WhisperConfig
from transformers.configuration_utils import SubConfigSpec

from aista.audio.rates import FRAMES_PER_WINDOW, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.errors import ConfigError


@strict
class BeatsConfig(PreTrainedConfig):
    """Settings of a BEATs encoder; the defaults are those of the published fine-tuned iter3+ model.

    Attributes:
        patch_embed_dim: Channels of the patch convolution, projected to ``hidden_size`` where they differ.
        conv_pos: Kernel of the convolution that serves as position embedding.
        num_buckets: Relative position buckets, logarithmic from a quarter of them up to ``max_distance``.
        gated_relative_position: Scale the relative bias per layer, head and query.
        batch_invariant: Features do not depend on the rest of the batch. False: as the published code.
        min_samples: Audio below this is padded with silence before its filterbank (SALMONN: 1 s).
    """

    model_type = "beats"

    num_mel_bins: int = 128
    patch_size: int = 16
    patch_embed_dim: int = 512
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    input_dropout: float | int = 0.0
    classifier_dropout: float | int = 0.0
    layer_norm_first: bool = False
    deep_norm: bool = True
    conv_bias: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position: bool = True
    gated_relative_position: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    batch_invariant: bool = True
    min_samples: int = SAMPLE_RATE_HZ
    initializer_range: float = 0.02


@strict
class AistaConfig(PreTrainedConfig):
    """Everything that defines a speech LLM besides its weights.

    Attributes:
        speech_config: The Whisper-class encoder. One position = one frame of 20 ms.
        audio_config: BEATs, or None.
        qformer_config: The window Q-Former (``encoder_hidden_size`` follows from the encoders).
        text_config: The backbone.
        lora: ``r``, ``alpha``, ``dropout``, ``targets`` (None: what the backbone's family names).
        bases: For ``speech_encoder``, ``audio_encoder`` and ``backbone``: ``source``, ``revision`` and
            ``fingerprint`` of the frozen weights.
        frames_per_window: Frames that one Q-Former query summarises.
        queries_per_window: Speech tokens per window.
        speech_tokens: ``voiced`` (windows that overlap the audio) or ``padded`` (all windows of the encoder's
            span, SALMONN's 88).
        speech_window_seconds: Length of the speech encoder's input, where it is shorter than the encoder
            could take: only its first positions are used, and each clip costs that much less. None: its own.
        speech_token_length: Length |x| of every speech token that enters the backbone; None: what the
            projection gives (docs/decisions/speech-token-length.md).
        position_ids: ``mask`` (a token's place among the real ones) or ``slots`` (its column, pads counted:
            SALMONN's habit in training).
        template: Prompt template, see ``aista.text.prompts``.
        family: Backbone family: a module of ``aista.model.backbones`` or a dotted name; None: by
            ``model_type``.
        directions: What it was trained for so far, e.g. ``en-en`` (recognition), ``en-zh``; None: unknown.
        pad_token_id, end_token_id: Fills rows; closes an answer.
        audio_token_id: Placeholder of a speech token in ``input_ids``. It is never looked up. None: one past
            the backbone's vocabulary (its ``extra_rows`` included).
        extra_rows: Rows of zeros after the backbone's vocabulary (SALMONN adds a random one for its
            ``[PAD]``, whose logit takes part in the softmax).
        seed: Of the trainable parts' first values.
    """

    model_type = "aista"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "speech_config": WhisperConfig,
        "audio_config": SubConfigSpec(BeatsConfig, optional=True),
        "qformer_config": Blip2QFormerConfig,
        "text_config": SubConfigSpec(AutoConfig, model_type="qwen2"),
    }

    speech_config: Any = None
    audio_config: Any = None
    qformer_config: Any = None
    text_config: Any = None
    lora: Any = None
    bases: Any = None
    frames_per_window: int = FRAMES_PER_WINDOW
    queries_per_window: int = 1
    speech_tokens: str = "voiced"
    speech_window_seconds: float | None = None
    speech_token_length: float | None = None
    position_ids: str = "mask"
    template: str = "chatml"
    family: str | None = None
    directions: list[str] | None = None
    pad_token_id: int = 0
    end_token_id: int = 0
    audio_token_id: int | None = None
    extra_rows: int = 0
    seed: int = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.speech_tokens not in ("voiced", "padded"):
            raise ConfigError(
                "Unknown kind of speech tokens.", got=self.speech_tokens, expected="voiced or padded"
            )
        if self.position_ids not in ("mask", "slots"):
            raise ConfigError("Unknown position_ids.", got=self.position_ids, expected="mask or slots")
        if unknown := sorted(set(self.lora or ()) - set(LORA_DEFAULTS)):
            raise ConfigError("Unknown LoRA settings.", got=unknown, expected=sorted(LORA_DEFAULTS))
        self.lora = LORA_DEFAULTS | (self.lora or {})
        self.bases = self.bases or {}
        super().__post_init__(**kwargs)
        if self.audio_token_id is None:  # also in models that were saved before there was a placeholder
            self.audio_token_id = self.text_config.vocab_size + self.extra_rows

    @property
    def feature_dim(self) -> int:
        """Width of the encoders' concatenated outputs."""
        return self.speech_config.d_model + (self.audio_config.hidden_size if self.audio_config else 0)

    @property
    def max_samples(self) -> int:
        """Samples (at 16 kHz) that the speech encoder can take at once."""
        return self.speech_config.max_source_positions * SAMPLES_PER_FRAME

    @property
    def max_windows(self) -> int:
        """Whole windows in the speech encoder's span; frames after the last whole window are dropped."""
        return self.speech_config.max_source_positions // self.frames_per_window

    def windows_for(self, num_samples: int) -> int:
        """Return the number of windows that ``num_samples`` of audio give."""
        if self.speech_tokens == "padded":
            return self.max_windows
        return min(-(-num_samples // (self.frames_per_window * SAMPLES_PER_FRAME)), self.max_windows)

    def frames_for(self, num_samples: int) -> int:
        """Return the number of encoder frames that matter for ``num_samples`` (what a cache has to keep)."""
        return self.windows_for(num_samples) * self.frames_per_window

    def tokens_for(self, num_samples: int) -> int:
        """Return the number of speech tokens in the backbone's sequence."""
        return self.windows_for(num_samples) * self.queries_per_window

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return the backbone's configuration (what transformers asks for vocabulary and layers)."""
        return self.text_config


LORA_DEFAULTS: dict[str, Any] = {"r": 8, "alpha": 32, "dropout": 0.1, "targets": None}
