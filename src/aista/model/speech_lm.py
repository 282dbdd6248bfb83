"""The speech LLM: frozen encoders, the window Q-Former, and a backbone with LoRA.

It follows transformers' contract of audio LLMs: a placeholder in ``input_ids`` for every speech token,
``get_audio_features``, ``get_decoder``, ``generate``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import can_return_tuple

from aista.errors import ConfigError, ModelInputError
from aista.model import loading
from aista.model.backbones import family
from aista.model.bases import locate
from aista.model.beats import BeatsModel
from aista.model.configuration import AistaConfig
from aista.model.lora import add_lora, is_lora
from aista.model.processing import SpeechInputs, positions, put, require_placeholders
from aista.model.weights import set_strictly
from aista.model.window_qformer import WindowQFormer, embedding_length


class AistaForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Speech in, text out (Equation 2 of the paper).

    Trained are the window Q-Former with its LayerNorms and projection, and LoRA; the encoders and the
    backbone stay as they are, and the encoders stay in eval mode. Saved is only what is trained, with the
    sources, revisions and fingerprints of the bases.
    """

    config_class = AistaConfig
    config: AistaConfig
    backbone: Any  # whatever AutoModelForCausalLM gives
    import_report: Any = None
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self,
        config: AistaConfig,
        speech_encoder: WhisperEncoder | None = None,
        audio_encoder: BeatsModel | None = None,
        backbone: nn.Module | None = None,
    ) -> None:
        """Put the parts together; bases that are not given are made from the configuration, untrained.

        The trainable parts are drawn from ``config.seed`` alone and leave the global random state untouched.
        """
        super().__init__(config)
        self.speech_encoder = speech_encoder or WhisperEncoder(config.speech_config)
        self.audio_encoder = audio_encoder
        if audio_encoder is None and config.audio_config is not None:
            self.audio_encoder = BeatsModel(config.audio_config)
        self.backbone = backbone or AutoModelForCausalLM.from_config(
            config.text_config, trust_remote_code=False
        )
        self.family = family(config.family or config.text_config.model_type)
        self.requires_grad_(False)
        with seeded(config.seed):
            self.window_qformer = WindowQFormer(config)
            targets = config.lora["targets"]
            add_lora(self.backbone, config.lora, self.family.lora_targets if targets is None else targets)
        for module in self.modules():  # every part has its weights: transformers must not draw them anew
            module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()
        self.train(False)

    # ---- building, saving, loading

    @classmethod
    def from_bases(
        cls, speech_encoder: str, backbone: str, audio_encoder: str | None = None, **settings: Any
    ):
        """Build a model on frozen bases, its trainable parts drawn from a seed.

        Args:
            speech_encoder, backbone, audio_encoder, settings: As for ``loading.configure``; and
                ``speech_token_scale``: ``free``: speech tokens are what the projection gives (the paper,
                SALMONN); ``embeddings``: they are as long as this backbone's token embeddings; and how bases
                are loaded, the fields of ``loading.Options``: ``dtype``, ``quantization``, ``device_map``,
                ``attn_implementation``.
        """
        scale, options = settings.pop("speech_token_scale", "free"), loading.Options.pop(settings)
        if scale not in ("free", "embeddings"):
            raise ConfigError("Unknown speech_token_scale.", got=scale, expected="free or embeddings")
        config = loading.configure(speech_encoder, backbone, audio_encoder, **settings)
        loading.identify_bases(config)
        parts = loading.load_parts(config, options)
        if scale == "embeddings":
            config.speech_token_length = embedding_length(parts["backbone"].get_input_embeddings())
        return cls(config, **parts).on_one_device()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | Path,
        *,
        replace_bases: dict[str, str] | None = None,
        check_bases: bool = True,
        **options: Any,
    ):
        """Load a saved model onto its bases.

        Args:
            folder: What ``save_pretrained`` wrote, or a hub id.
            replace_bases: Where the bases lie on this machine, by role, if not where they lay.
            check_bases: Refuse bases with another fingerprint. (With False they are taken with a warning.)
            options: The fields of ``loading.Options``; what else transformers hands on is left aside.

        Raises:
            CheckpointError: Weights are missing, superfluous, misshapen or damaged; a base is nowhere, or is
                not the one that this model was trained on.
        """
        place = locate(str(folder))
        config, trained = loading.open_checkpoint(place, replace_bases, check_bases)
        parts = loading.load_parts(config, loading.Options.pop(options), beside=place)
        model = cls(config, **parts).on_one_device()
        model.load_trainable(trained)
        return model

    def on_one_device(self):
        """Bring the audio side to where the backbone, wherever a device map put it, takes its embeddings."""
        device: Any = self.get_input_embeddings().weight.device
        for part in (self.speech_encoder, self.audio_encoder, self.window_qformer):
            if part is not None:
                part.to(device)
        return self

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **_: Any,
    ) -> None:
        """Save the configuration and the trained tensors, and nothing of the bases.

        Args:
            save_directory: Made if it does not exist; files appear whole or not at all.
            is_main_process: False: nothing is written.
            state_dict: A full state dict to take the tensors from (of a sharded model), instead of its own.
        """
        if is_main_process:
            self.config.architectures = [type(self).__name__]
            found = self.trainable_state_dict() if state_dict is None else state_dict
            trained = {name: found[name] for name in self.trained_names()}
            loading.save_checkpoint(self.config, trained, Path(save_directory))

    # ---- what is trained

    def trained_names(self) -> list[str]:
        """Return the names of the parameters that training changes."""
        return list(self.trainable_state_dict())

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return the trained tensors by name (detached, not copied)."""
        named = self.named_parameters()
        return {n: p.detach() for n, p in named if n.startswith("window_qformer.") or is_lora(n)}

    def load_trainable(self, state: dict[str, Tensor]) -> None:
        """Set the trained tensors.

        Raises:
            CheckpointError: Names or shapes differ in either direction.
        """
        set_strictly("the trained part of this model", self.trainable_state_dict(), state)

    def train(self, mode: bool = True):
        """Set training mode; the frozen encoders stay in eval mode (docs/decisions)."""
        super().train(mode)
        self.speech_encoder.eval()
        if self.audio_encoder is not None:
            self.audio_encoder.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's table of token embeddings."""
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the backbone's LM head."""
        return self.backbone.get_output_embeddings()

    def get_decoder(self) -> nn.Module:
        """Return the backbone without its LM head; its blocks lie at ``blocks_path``."""
        return self.family.decoder_of(self.backbone)

    @property
    def blocks_path(self) -> str:
        """Dotted path, from the decoder, of the list of its blocks: ``layers`` in most families."""
        return self.family.blocks

    # ---- from sound to speech tokens

    @torch.no_grad()
    def encode_audio(self, speech: SpeechInputs) -> Tensor:
        """Run the frozen encoders: what a feature cache keeps.

        Args:
            speech: With ``input_features``, and for BEATs with ``fbank``.

        Returns:
            (B, F, D) float32: both encoders' outputs side by side, before the trainable LayerNorms, cut to
            the frames of the row with the most windows (``config.frames_for``).

        Autocast does not reach into it: cached and fresh features are the same numbers.
        """
        if speech.input_features is None:
            raise ModelInputError("There is neither audio nor cached speech_features.")
        frames = max(self._num_windows(speech)) * self.config.frames_per_window
        with torch.autocast(speech.input_features.device.type, enabled=False):
            given = speech.input_features.to(self.speech_encoder.conv1.weight.dtype)
            features = self.speech_encoder(given).last_hidden_state[:, :frames].float()
            if self.audio_encoder is None:
                return features
            if speech.fbank is None:
                raise ModelInputError("This model hears through BEATs too: fbank is missing.")
            audio = self.audio_encoder(speech.fbank.float(), speech.fbank_mask).features[:, :frames]
        return torch.cat([features, F.pad(audio, (0, 0, 0, frames - audio.shape[1]))], dim=-1)

    @can_return_tuple
    def get_audio_features(
        self, input_features: Tensor | None = None, **audio: Any
    ) -> BaseModelOutputWithPooling:
        """Turn audio, or cached encoder features, into speech tokens.

        Args:
            input_features, audio: The fields of ``SpeechInputs``.

        Returns:
            ``pooler_output`` (N, d): the speech tokens of all rows one after another, of the backbone's
            width, which stand at the placeholders; ``last_hidden_state`` (B, F, D): the encoders' outputs.

        Raises:
            ModelInputError: Neither audio nor features, or features that are too short.
        """
        speech = SpeechInputs(input_features=input_features, **audio)
        given, windows = speech.speech_features, self._num_windows(speech)
        features = self.encode_audio(speech) if given is None else given
        if (frames := max(windows) * self.config.frames_per_window) > features.shape[1]:
            raise ModelInputError(
                "There are fewer features than num_samples implies.",
                got=tuple(features.shape),
                expected=f"{frames} frames",
                advice="Were they cached for another setting of speech_tokens?",
            )
        return BaseModelOutputWithPooling(features, self.window_qformer(features, windows))

    def _num_windows(self, speech: SpeechInputs) -> list[int]:
        """Return the windows of every row."""
        if speech.num_samples is None:
            return [self.config.max_windows] * speech.size
        return [self.config.windows_for(length) for length in speech.num_samples]

    # ---- the backbone

    def _embed(self, input_ids: Tensor, attention_mask: Tensor | None, speech: SpeechInputs | None) -> Tensor:
        """Look up the text and put the speech tokens at their placeholders: (B, T, d), zero at pads."""
        placeholders = input_ids.eq(self.config.audio_token_id)  # type: ignore[arg-type]
        if input_ids.device.type == "cpu":  # an accelerator is not asked in the middle of a step
            windows = [] if speech is None else self._num_windows(speech)
            expected = [count * self.config.queries_per_window for count in windows]
            require_placeholders(placeholders.sum(1), expected)
        embeds = self.get_input_embeddings()(input_ids.masked_fill(placeholders, 0))
        if attention_mask is not None:
            embeds = embeds.masked_fill(~attention_mask.bool()[..., None], 0)
        if speech is None:
            return embeds
        tokens = self.get_audio_features(**speech.to_dict()).pooler_output
        return put(embeds, positions(placeholders, len(tokens)), tokens)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the target (Equation 2).

        Args:
            input_ids: (B, T) int64, ``config.audio_token_id`` at the speech tokens' positions.
            attention_mask: (B, T), 1 where real. None: all are, or pads follow on the right alone, where
                causal attention never looks (attention has faster kernels without a mask).
            inputs_embeds: (B, T, d) in place of ``input_ids`` and sound.
            labels: (B, T) int64, -100 outside the target.
            num_items_in_batch: Divides the summed cross-entropy; without it, the number of target tokens
                does.
            options: The fields of ``SpeechInputs``, and what the backbone takes: ``position_ids``,
                ``past_key_values``, ``use_cache``, ``output_hidden_states``, ``logits_to_keep``.

        Raises:
            ModelInputError: Audio and placeholders do not fit each other.
        """
        speech = SpeechInputs.pop(options)
        if inputs_embeds is None:
            if input_ids is None:
                raise ModelInputError("There are neither input_ids nor inputs_embeds.")
            inputs_embeds = self._embed(input_ids, attention_mask, speech)
        if options.get("position_ids") is None:
            options["position_ids"] = None  # transformers counts every column, pads too
            if attention_mask is not None and self.config.position_ids == "mask":
                places = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
                options["position_ids"] = places[:, -inputs_embeds.shape[1] :]
        options.setdefault("use_cache", False)
        output = self.backbone(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **options)
        if labels is not None:
            logits, wanted = output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            count = (wanted != -100).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            output.loss = F.cross_entropy(logits.float(), wanted, reduction="sum") / count
        return output

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:  # type: ignore[override]
        """Continue prompts. The encoders run once, whatever the number of beams.

        Args:
            input_ids, attention_mask: (B, T), padded on the left (right: SALMONN's ``slots``).
            options: The fields of ``SpeechInputs``, and settings of transformers' ``GenerationConfig``.

        Returns:
            (B, T + new tokens) int64, the prompts first; rows that end early are filled with the pad token.

        Raises:
            ModelInputError: The prompts are padded on the right, or audio and placeholders do not fit.
        """
        slots = self.config.position_ids == "slots"
        if not slots and not attention_mask[:, -1].all():
            raise ModelInputError(
                "Prompts must be padded on the left to be answered.",
                advice='processor(..., padding_side="left")',
            )
        speech = SpeechInputs.pop(options)
        ends = {"eos_token_id": self.config.end_token_id, "pad_token_id": self.config.pad_token_id}
        settings = GenerationConfig(**{"do_sample": False, "max_new_tokens": 200, **ends, **options})
        with eval_mode(self), salmonn_positions(self.backbone, slots):
            new = self.backbone.generate(
                inputs_embeds=self._embed(input_ids, attention_mask, speech),
                attention_mask=attention_mask,
                generation_config=settings,
            )
        return torch.cat([input_ids, new], dim=1)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; every part returns to the mode it had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def salmonn_positions(backbone: Any, active: bool) -> Iterator[None]:
    """Let ``generate`` count positions as SALMONN's transformers 4.28 did, pads on the right included.

    At every step positions come from the whole mask, and a pad's is 1. transformers 5 counts on from the last
    column instead, which is the same only where that column is no pad.
    """
    if not active:
        yield
        return
    original = backbone.prepare_inputs_for_generation

    @functools.wraps(original)
    def prepare(input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> dict[str, Any]:
        inputs = original(input_ids, attention_mask=attention_mask, **options)
        if attention_mask is None:  # there are no pads
            return inputs
        embeds = inputs.get("inputs_embeds")
        length = (inputs["input_ids"] if embeds is None else embeds).shape[1]
        positions = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
        return {**inputs, "position_ids": positions[:, -length:]}

    backbone.prepare_inputs_for_generation = prepare
    try:
        yield
    finally:
        del backbone.prepare_inputs_for_generation


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of its own, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
