"""The speech LLM: frozen encoders, the window Q-Former, and a backbone with LoRA."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from aista.errors import ModelInputError
from aista.model import assembly, hidden
from aista.model.backbones import family
from aista.model.beats import BeatsModel
from aista.model.configuration import AistaConfig
from aista.model.hearing import Hearing
from aista.model.layout import Layout, places, put, take
from aista.model.lora import add_lora, is_lora, switched
from aista.model.outputs import MOST_LOGITS, AistaOutput, Targets
from aista.model.sharded import set_whole
from aista.model.weights import require_match
from aista.model.window_qformer import WindowQFormer


class AistaForConditionalGeneration(Hearing, PreTrainedModel):
    """Speech in, text out (Equations 2 and 3 of the paper).

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
        with hidden.seeded(config.seed):
            self.window_qformer = WindowQFormer(config)
            targets = config.lora["targets"]
            add_lora(self.backbone, config.lora, self.family.lora_targets if targets is None else targets)
        for module in self.modules():  # every part has its weights: transformers must not draw them anew
            module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()
        self.train(False)

    @classmethod
    def from_bases(
        cls, speech_encoder: str, backbone: str, audio_encoder: str | None = None, **settings: Any
    ):
        """Build a model on frozen bases, its trainable parts fresh; see ``assembly.from_bases``."""
        return assembly.from_bases(cls, speech_encoder, backbone, audio_encoder, **settings)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **settings: Any):  # type: ignore[override]
        """Load what was trained onto its bases; see ``assembly.from_pretrained``."""
        return assembly.from_pretrained(cls, folder, **settings)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **_: Any,
    ) -> None:
        """Save configuration and trained tensors; see ``assembly.save_pretrained``."""
        if is_main_process:
            assembly.save_pretrained(self, save_directory, state_dict)

    # ---- what is trained

    def trained_names(self) -> list[str]:
        """Return the names of the parameters that training changes."""
        names = (name for name, _ in self.named_parameters())
        return [name for name in names if name.startswith("window_qformer.") or is_lora(name)]

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return the trained tensors by name (detached, not copied)."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name].detach() for name in self.trained_names()}

    @torch.no_grad()
    def load_trainable(self, state: dict[str, Tensor]) -> None:
        """Set the trained tensors.

        Raises:
            CheckpointError: Names or shapes differ in either direction.
        """
        own = self.trainable_state_dict()
        require_match("the trained part of this model", state, own)
        for name, tensor in own.items():
            set_whole(tensor, state[name])

    def train(self, mode: bool = True):
        """Set training mode; the frozen encoders stay in eval mode (DESIGN decision 14)."""
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

    # ---- the backbone

    def _embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        speech_mask: Tensor | None,
        layout: Layout | None = None,
        **audio: Any,
    ) -> Tensor:
        """Look up the text and put the speech tokens in their places: (B, T, d)."""
        layout = layout or Layout.read(attention_mask, speech_mask)
        real = attention_mask.bool() if speech_mask is None else attention_mask.bool() & ~speech_mask
        embeds = self.get_input_embeddings()(input_ids.masked_fill(~real, 0))
        embeds = embeds.masked_fill(~real[..., None], 0)
        given = any(value is not None for key, value in audio.items() if key != "num_samples")
        if speech_mask is None or not (given or layout.speech_tokens):
            return embeds
        if not given or not layout.speech_tokens:
            raise ModelInputError(
                "There is audio but no <Speech> slot for it." if given else "The <Speech> slot has no audio.",
                advice="Build the batch with the processor of this model.",
            )
        queries = self.config.queries_per_window
        if embeds.device.type == "cpu":
            self._require_slots(speech_mask.sum(1), audio.get("num_samples"))
        features, windows, most = self._features(layout.widest_speech // queries, **audio)
        tokens, _ = self.window_qformer.tokens(features, windows, most, layout.speech_tokens // queries)
        return put(embeds, places(speech_mask, layout.speech_tokens), tokens)

    def _attention(self, attention_mask: Tensor, layout: Layout) -> dict[str, Tensor | None]:
        """Return the mask and the positions that the backbone needs.

        None of both where pads stand on the right alone: causal attention never looks at them, columns are
        positions, and without a mask attention has faster kernels.
        """
        if layout.right_padded:
            return {"attention_mask": None, "position_ids": None}
        return {"attention_mask": attention_mask, "position_ids": self._positions(attention_mask)}

    def _positions(self, attention_mask: Tensor) -> Tensor | None:
        if self.config.position_ids == "slots":
            return None  # transformers then counts every column
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)

    def _predict(
        self, embeds: Tensor, attention: dict[str, Tensor | None], targets: Targets | None, keep: str
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Run the backbone: logits as ``keep`` says, and the score of the targets."""
        inputs = {"inputs_embeds": embeds, **attention, "use_cache": False}
        if targets is None or keep == "all":
            logits = self.backbone(**inputs).logits
            return logits, None if targets is None else targets.score(take(logits, targets.where))
        head: Any = self.get_output_embeddings()
        rows = MOST_LOGITS // (self.config.text_config.vocab_size + self.config.extra_rows)
        if keep == "targets" or len(targets.ids) <= rows or not self._head_is_plain:
            with hidden.head_at(self.backbone, targets.where):
                logits = self.backbone(**inputs).logits[0]
            return logits, targets.score(logits)
        with hidden.head_at(self.backbone, targets.where, see=0) as states:
            self.backbone(**inputs)
        return None, targets.score_states(head, states[0], max(1, rows // 2))

    @functools.cached_property
    def _head_is_plain(self) -> bool:
        return hidden.head_is_plain(self.backbone)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        speech_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        input_features: Tensor | None = None,
        fbank: Tensor | None = None,
        fbank_mask: Tensor | None = None,
        speech_features: Tensor | None = None,
        num_samples: Tensor | None = None,
        capture_layers: Iterable[int] = (),
        num_items_in_batch: Tensor | int | None = None,
        layout: Layout | None = None,
        logits: Literal["all", "targets", "none"] = "all",
    ) -> AistaOutput:
        """Predict the target (Equations 2 and 3).

        Args:
            input_ids: (B, T) int64; at speech positions anything (it is never looked up).
            attention_mask: (B, T), 1 where real.
            speech_mask: (B, T) bool, where the speech tokens stand; None or all False for text alone.
            labels: (B, T) int64, -100 outside the target.
            input_features, fbank, fbank_mask, speech_features, num_samples: As for ``get_audio_features``.
            capture_layers: Layers whose hidden states are wanted, 0 (embeddings) to L (after the final norm).
            num_items_in_batch: Divides the summed cross-entropy; without it, the number of target tokens
                does.
            layout: The batch in numbers, as the processor gives it: with it nothing here waits for an
                accelerator. On the CPU the masks are read.
            logits: Which are computed and returned: of every place; of the places that predict a label; or
                none, and then a large vocabulary's never exist all at once.

        Raises:
            ModelInputError: Audio and slots do not fit each other, or there is no such layer.
        """
        layout = Layout.of(layout, attention_mask, speech_mask, labels)
        embeds = self._embed(
            input_ids,
            attention_mask,
            speech_mask,
            layout,
            input_features=input_features,
            fbank=fbank,
            fbank_mask=fbank_mask,
            speech_features=speech_features,
            num_samples=num_samples,
        )
        targets = None if labels is None else Targets(labels, layout.targets)
        with hidden.capture(self.backbone, self.family, capture_layers) as states:
            kept, score = self._predict(embeds, self._attention(attention_mask, layout), targets, logits)
        output = AistaOutput(
            logits=kept, hidden_states=states or None, speech_mask=speech_mask, layout=layout
        )
        if score is not None:
            divisor = max(layout.targets, 1) if num_items_in_batch is None else num_items_in_batch
            output.loss, output.correct, output.targets = score[0] / divisor, score[1], layout.targets
        return output

    @torch.no_grad()
    def text_states(
        self,
        transcript_input_ids: Tensor,
        transcript_attention_mask: Tensor,
        layers: Iterable[int],
        layout: Layout | None = None,
    ) -> dict[int, Tensor]:
        """Return hidden states of transcripts that stand where speech would (the text branch of Section 4.3).

        Args:
            transcript_input_ids: (B, S) prefix and transcript; nothing after it matters (causal attention).
            transcript_attention_mask: (B, S).
            layers: Layers wanted, 0 to L.
            layout: The batch in numbers, with which nothing here waits for an accelerator.

        Returns:
            {layer: (B, S, d)}; at pads on the right anything.

        Gradient: none. Cost: only the blocks below the highest layer run, for layer 0 none; LoRA is active,
        dropout is off.
        """
        given = None if layout is None else Layout(right_padded=True)  # as the processor builds this branch
        layout = Layout.of(given, transcript_attention_mask)
        embeds = self._embed(transcript_input_ids, transcript_attention_mask, None, layout)
        with (
            hidden.eval_mode(self.backbone),
            hidden.truncated(self.backbone, self.family, layers) as top,
            hidden.capture(self.backbone, self.family, layers, top) as states,
        ):
            self.family.decoder_of(self.backbone)(
                inputs_embeds=embeds,
                **self._attention(transcript_attention_mask, layout),
                use_cache=False,
            )
        return states

    @torch.no_grad()
    def text_outputs(
        self, input_ids: Tensor, attention_mask: Tensor, layers: Iterable[int] = (), *, lora: bool = True
    ) -> AistaOutput:
        """Return logits (B, T, V) and hidden states of whole texts: a teacher that reads instead of hearing.

        Args:
            input_ids, attention_mask: (B, T), without speech.
            layers: Layers wanted, 0 to L.
            lora: False: the backbone as it was before LoRA.

        Gradient: none. Dropout is off.
        """
        with hidden.eval_mode(self.backbone), switched(self.backbone, lora):
            return self(input_ids, attention_mask, capture_layers=layers)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        speech_mask: Tensor | None = None,
        *,
        num_beams: int = 1,
        max_new_tokens: int = 200,
        input_features: Tensor | None = None,
        fbank: Tensor | None = None,
        fbank_mask: Tensor | None = None,
        speech_features: Tensor | None = None,
        num_samples: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Answer prompts.

        Args:
            input_ids, attention_mask, speech_mask: (B, T), padded on the left (right: SALMONN's ``slots``).
            num_beams, max_new_tokens, options: Settings of transformers' ``GenerationConfig``.

        Returns:
            (B, new tokens) int64, without the prompt; rows that end early are filled with the pad token.

        Raises:
            ModelInputError: The prompts are padded on the right, or audio and slots do not fit.
        """
        slots = self.config.position_ids == "slots"
        if not slots and not attention_mask[:, -1].all():
            raise ModelInputError(
                "Prompts must be padded on the left to be answered.",
                advice='processor(..., padding_side="left")',
            )
        for name in [
            name for name in options if name in ("labels", "layout") or name.startswith("transcript")
        ]:
            options.pop(name)
        settings = GenerationConfig(
            **{
                "do_sample": False,
                "eos_token_id": self.config.end_token_id,
                "pad_token_id": self.config.pad_token_id,
                "num_beams": num_beams,
                "max_new_tokens": max_new_tokens,
                **options,
            }
        )
        with hidden.eval_mode(self), hidden.salmonn_positions(self.backbone, slots):
            embeds = self._embed(
                input_ids,
                attention_mask,
                speech_mask,
                input_features=input_features,
                fbank=fbank,
                fbank_mask=fbank_mask,
                speech_features=speech_features,
                num_samples=num_samples,
            )
            return self.backbone.generate(
                inputs_embeds=embeds, attention_mask=attention_mask, generation_config=settings
            )
