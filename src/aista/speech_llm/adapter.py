"""The one adapter over transformers' contract of audio LLMs; our own model goes through it too.

The contract: a placeholder (``config.audio_token_id``) in ``input_ids`` for every speech embedding,
``get_audio_features``, ``get_decoder``, ``get_input_embeddings``, ``generate``, and one processor call with
text and audio.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
)

from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.audio.signal import is_silent
from aista.audio.speech import Segment, segment
from aista.errors import CheckpointError, ConfigError
from aista.model.bases import locate, read_config
from aista.model.configuration import AistaConfig
from aista.model.loading import Options, read_trained
from aista.model.lora import switched
from aista.model.processing import take
from aista.model.speech_lm import eval_mode
from aista.speech_llm import adapted, decoder
from aista.speech_llm.batch import Batch, Batcher, placeholder
from aista.speech_llm.classes import speech_class
from aista.speech_llm.decoder import Decoder, Packing, Targets, head_at, head_is_plain


@dataclass
class Output:
    """What a forward pass gives.

    Attributes:
        states: {layer: (B, T, d)} for the layers asked for, numbered as ``output_hidden_states``.
        logits: (B, T, V); of the targets alone, (targets, V); or None, as was asked for.
        loss: Summed cross-entropy of the targets, divided as was asked for; None without labels.
        correct: Scalar int64, how many targets have the highest logit.
    """

    states: dict[int, Tensor]
    logits: Tensor | None = None
    loss: Tensor | None = None
    correct: Tensor | None = None


def require_placeholder(config: Any) -> int:
    """Return the id that marks speech in ``input_ids``.

    Raises:
        ConfigError: There is no such mark: it is no speech LLM, or one that adds sound to every position.
    """
    found, kind = placeholder(config), getattr(config, "model_type", type(config).__name__)
    if getattr(config, "is_encoder_decoder", False):
        found = None
        kind += ", an encoder-decoder: text attends to sound, and never stands in its place"
    if kind != AistaConfig.model_type and getattr(config, "audio_config", config) is None:
        found = None  # the larger models of a family that hears may not (in ours it is the second encoder)
        kind += ", without an encoder for sound: its audio_config is null"
    if found is not None:
        return found
    raise ConfigError(
        "This model has no placeholder for speech, so it is no speech LLM that can be used here.",
        got=kind,
        expected="config.audio_token_id, and a decoder that reads speech and text as one sequence",
        advice="A language model or an encoder is a base: see `aista pretrain`, or from_bases.",
    )


def auto_class(config: Any) -> Any:
    """Return the Auto class that makes models of a configuration: not all speech LLMs are in the same one.

    Raises:
        ConfigError: It is no speech LLM of transformers.
    """
    names_audio = placeholder(config) is not None  # audioflamingo3 stands among translators of text
    more = (AutoModelForSeq2SeqLM,) if names_audio else ()
    for auto in (AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq, *more):
        if type(config) in auto._model_mapping:
            return auto
    raise ConfigError(
        "This is no speech LLM of transformers.",
        got=config.model_type,
        expected="aista, granite_speech, voxtral, qwen2_audio, audioflamingo3, ...",
    )


def config_of(folder: Path) -> Any:
    """Read the configuration of the model, or of the part of it that hears, that a folder holds.

    Raises:
        CheckpointError: There is none.
        ConfigError: It is no speech LLM, or one of a class that cannot be used, and why.
    """
    if (folder / adapted.ADAPTED).is_file():
        base = adapted.read_about(folder)["base"]
        return config_of(locate(base["source"], revision=base["revision"], beside=folder))
    config = read_config(folder)
    kind = speech_class(str(config.model_type))
    if kind.part is not None:
        config = getattr(config, kind.part)
    require_placeholder(config)
    auto_class(config)
    return config


def require_trainable(source: str, lora: dict[str, Any]) -> None:
    """Demand, before any weights are loaded, that LoRA and a projector have their places in a model.

    Args:
        source: Id or folder. Of a model of ours, or one that was trained before, nothing is asked.
        lora: As for ``SpeechLM.to_train``.

    Raises:
        ConfigError: LoRA finds no layer, or the class names no projector that is here.
    """
    folder = locate(source)
    config = config_of(folder)
    if config.model_type != AistaConfig.model_type and not (folder / adapted.ADAPTED).is_file():
        with torch.device("meta"):
            model = auto_class(config).from_config(config)
        adapted.Adaptation(model, speech_class(config.model_type), {"lora": lora, "seed": 0})


class SpeechLM:
    """Any speech LLM of the contract: hidden states, predictions, text in place of speech, generation.

    Args:
        model: A model of transformers' contract.
        processor: Its processor; None: batches are made elsewhere.
        form: How a request is written, see ``Batcher``.

    Raises:
        ConfigError: The model has no placeholder for speech, or no list of blocks; or its class cannot be
            used, and why.

    Attributes:
        kind: What is known about its class.
        packs: Whether the rows of a batch run as one sequence, see ``pack_rows``.
        base: How a checkpoint names somebody else's model; None where it was not loaded here.
    """

    def __init__(self, model: Any, processor: Any = None, *, form: str | None = None) -> None:
        self.kind = speech_class(model.config.model_type)
        self.audio_token_id = require_placeholder(model.config)
        self.model, self.processor = model, processor
        self.decoder = Decoder(model.get_decoder(), getattr(model, "blocks_path", "layers"), self.kind.stream)
        self.base: tuple[str, str | None, Path] | None = None
        self.packs = False
        self.batcher: Any = None
        if processor is not None:
            if not self.ends:
                raise ConfigError(
                    "Nothing says which token ends an answer of this model.",
                    got=model.config.model_type,
                    expected="eos_token_id in generation_config.json or in the tokenizer",
                )
            self.batcher = Batcher(processor, model.config, end=self.ends[0], form=form)

    @classmethod
    def load(
        cls, source: str | Path, *, revision: str | None = None, form: str | None = None, **options: Any
    ) -> SpeechLM:
        """Load a model and its processor by id or folder.

        Args:
            source: Of a model of ours, of any speech LLM of transformers, or of a checkpoint that was trained
                on one.
            revision: Commit of a hub id.
            form: How a request is written, see ``Batcher``.
            options: ``dtype``, ``quantization``, ``device_map``, ``attn_implementation``; for a model of ours
                also ``replace_bases`` and ``check_bases``.

        Raises:
            CheckpointError: There is no such model, or it is not whole.
            ConfigError: It is no speech LLM, or one of a class that cannot be used.
        """
        folder = locate(str(source), revision=revision)
        if (folder / adapted.ADAPTED).is_file():
            return cls._trained_on_a_base(folder, form, options)
        config = config_of(folder)
        kind, auto = speech_class(config.model_type), auto_class(config)
        if config.model_type == AistaConfig.model_type:
            model = auto.from_pretrained(folder, **options).eval()
            moved = options.get("replace_bases")
            return cls(model, AutoProcessor.from_pretrained(folder, replace_bases=moved), form=form)
        if moved := options.pop("replace_bases", None):
            raise ConfigError(
                "This model stands on no bases that could lie elsewhere.",
                got=f"{config.model_type}, replace_bases={moved}",
                expected="a model of this package",
            )
        processor = adapted.load_processor(AutoProcessor, folder)  # what it lacks is told before weights load
        model = adapted.load_whole(auto, folder, config, Options(**options))
        if kind.prepare is not None:
            kind.prepare(model, folder)
        found = cls(model, processor, form=form)
        found.base = (str(source), revision, folder)
        found.batcher.require_whole()
        return found

    @classmethod
    def _trained_on_a_base(cls, folder: Path, form: str | None, options: dict[str, Any]) -> SpeechLM:
        about = adapted.read_about(folder)
        base = about["base"]
        place = locate(base["source"], revision=base["revision"], beside=folder)
        found = cls.load(place, form=form, **options)
        now = adapted.describe(str(place), None, place)["fingerprint"]
        if now != base["fingerprint"]:
            raise CheckpointError(
                "This base is not the one that the checkpoint was trained on.",
                got=f"{place} with fingerprint {now[:23]}…",
                expected=f"{base['fingerprint'][:23]}…",
                advice=f"Name the right one in {folder / adapted.ADAPTED}: base.source.",
            )
        adapted.Adaptation(found.model, found.kind, about).load_trainable(read_trained(folder))
        return found

    def to_train(self, lora: dict[str, Any], seed: int) -> SpeechLM:
        """Make somebody else's model trainable: LoRA in its decoder, its projector beside it.

        Args:
            lora: ``r``, ``alpha``, ``dropout``, and ``targets`` or None.
            seed: Of LoRA.

        A model of ours, or one that was trained before, stays as it is.
        """
        if not self.is_ours and self.keeper is self.model:
            if self.base is None:
                raise ConfigError(
                    "Nothing says where this model comes from.", advice="Load it with SpeechLM.load."
                )
            about = {"base": adapted.describe(*self.base), "lora": lora, "seed": seed, "directions": None}
            adapted.Adaptation(self.model, self.kind, about)
        return self

    def save_merged(self, folder: Path) -> None:
        """Write model and processor as a plain folder of the class that the base is of; LoRA is no more.

        Raises:
            ConfigError: Nothing was trained on somebody else's model here, or its layers are quantised.
        """
        if self.keeper is self.model:
            raise ConfigError(
                "Only what was trained on somebody else's speech LLM can be merged into it.",
                got=self.model.config.model_type,
                advice="A model of ours is loaded by aista.load, or exported with 'aista export salmonn'.",
            )
        self.keeper.merge().save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @property
    def is_ours(self) -> bool:
        """Whether it is AI-STA's own model."""
        return self.model.config.model_type == AistaConfig.model_type

    @property
    def keeper(self) -> Any:
        """What saves and sets what training changes: our model itself, or somebody else's ``Adaptation``."""
        return getattr(self.model, "adaptation", self.model)

    # ---- what it is

    @property
    def directions(self) -> tuple[str, ...]:
        """What it was trained for here, e.g. ``("en-zh", "en-en")``; empty where it does not say."""
        if self.is_ours:
            return tuple(self.model.config.directions or ())
        return tuple(getattr(self.keeper, "about", {}).get("directions") or ())

    @directions.setter
    def directions(self, values: Iterable[str]) -> None:
        if self.is_ours:
            self.model.config.directions = sorted(values)
        else:
            self.keeper.about["directions"] = sorted(values)

    @property
    def lora(self) -> dict[str, Any] | None:
        """``r``, ``alpha``, ``dropout`` and ``targets`` of the LoRA that was made here, if any."""
        if self.is_ours:
            return dict(self.model.config.lora)
        return getattr(self.keeper, "about", {}).get("lora")

    @property
    def longest_seconds(self) -> float:
        """How much it hears at once, in seconds."""
        return self.kind.longest_seconds if self.batcher is None else self.batcher.longest_seconds

    def pieces(self, samples: np.ndarray) -> list[Segment]:
        """Cut a recording into what the model hears at once, at quiet places; every verb cuts so.

        What is heard whole stays whole, as it is in training. The pieces of anything longer are, for a model
        of ours, whole windows at most, so that no sound is lost between them.

        Args:
            samples: float32 (n,), 16 kHz.
        """
        config, most = self.model.config, self.longest_seconds
        if 0 < len(samples) <= round(most * SAMPLE_RATE_HZ):
            return [Segment(0, len(samples), is_silent(samples))]
        if self.is_ours:
            most = config.max_windows * config.frames_per_window * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ
        return segment(samples, max_seconds=most)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer, the one that training closes answers with first."""
        if self.is_ours:
            return (self.model.config.end_token_id,)
        named = getattr(self.model.generation_config, "eos_token_id", None)
        ends = [named] if isinstance(named, int) else list(named or ())
        own = getattr(getattr(self.processor, "tokenizer", self.processor), "eos_token_id", None)
        if own is not None:
            ends = [own, *ends] if own in ends else [*ends, own]
        return tuple(dict.fromkeys(ends))

    @property
    def num_layers(self) -> int:
        """L; layers are numbered 0 (embeddings) to L (after the final norm)."""
        return self.decoder.num_layers

    @property
    def hidden_size(self) -> int:
        """d, the width of the hidden states."""
        return self.model.config.get_text_config().hidden_size

    @property
    def vocabulary(self) -> int:
        """How many tokens the decoder's embedding table has."""
        return self.model.get_input_embeddings().num_embeddings

    def states(self, batch: Batch, layers: Iterable[int]) -> dict[int, Tensor]:
        """Return hidden states (B, T, d) by layer, with their gradient.

        Cost: no block above the highest layer runs, and no logit is computed.
        """
        layers, nowhere = list(layers), torch.zeros(0, dtype=torch.int64, device=batch.input_ids.device)
        with (
            self.decoder.packed(self._packing(batch)),
            self.decoder.truncated(layers),
            self.decoder.capture(layers) as states,
            head_at(self.model, nowhere),
        ):
            self.model(**self._inputs(batch), use_cache=False)
        return states

    def pack_rows(self) -> None:
        """Run the rows of a batch as one sequence from now on (``train.pack_rows``).

        Raises:
            ConfigError: What would then be computed is not known to be the same.
        """
        config: Any = self.decoder.module.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        near = getattr(config, "sliding_window", None)
        for is_right, what, got in (
            (self.is_ours, "a model of this package", self.model.config.model_type),
            (config._attn_implementation in ("sdpa", "eager"), "sdpa or eager", config._attn_implementation),
            (getattr(config, "rope_parameters", None), "rotary positions", f"{config.model_type} has others"),
            (kinds == {"full_attention"} and not near, "blocks that see all", f"{sorted(kinds)}, {near}"),
        ):
            if not is_right:
                advice = "Leave train.pack_rows out."
                raise ConfigError("Rows cannot be packed here.", got=got, expected=what, advice=advice)
        self.packs = True

    def _packing(self, batch: Batch) -> Packing | None:
        """Return how a batch runs as one sequence; None: row by row."""
        if not self.packs or batch.size == 1 or not batch.right_padded:
            return None
        ids = batch.input_ids
        before_speech = (batch.span | (ids == self.audio_token_id)).cumsum(1) == 0
        return Packing(ids, batch.attention_mask.bool(), before_speech)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what the whole model takes: sound in its type, and what its class is always told."""
        return {**batch.inputs(), **self._sound(batch), **self.kind.forward_options}

    def _sound(self, batch: Batch) -> dict[str, Any]:
        if self.is_ours:
            return batch.sound
        dtype, sound = self.model.get_input_embeddings().weight.dtype, batch.sound.items()
        return {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in sound}

    @torch.no_grad()
    def text_states(self, batch: Batch, layers: Iterable[int]) -> dict[int, Tensor]:
        """Return hidden states (B, S, d) of transcripts that stand where speech would (Section 4.3).

        Gradient: none. Cost: the decoder alone, up to the highest layer; for layer 0 no block. LoRA is
        active, dropout is off. At pads on the right: anything.
        """
        layers = list(layers)
        with (
            eval_mode(self.decoder.module),
            self.decoder.packed(self._packing(batch)),
            self.decoder.truncated(layers),
            self.decoder.capture(layers) as states,
        ):
            self.decoder.module(**batch.inputs(), use_cache=False)
        return states

    @torch.no_grad()
    def text_outputs(self, batch: Batch, layers: Iterable[int] = (), *, lora: bool = True) -> Output:
        """Return logits (B, T, V) and hidden states of whole texts: a teacher that reads.

        Args:
            lora: False: the decoder as it was before LoRA.

        Gradient: none. Dropout is off.
        """
        with (
            eval_mode(self.decoder.module),
            switched(self.decoder.module, lora),
            self.decoder.packed(self._packing(batch)),
            self.decoder.capture(layers) as states,
        ):
            logits = self.model(**self._inputs(batch), use_cache=False).logits
        return Output(states, logits)

    def predict(
        self,
        batch: Batch,
        layers: Iterable[int] = (),
        *,
        logits: Literal["all", "targets", "none"] = "none",
        num_items_in_batch: Tensor | float | None = None,
    ) -> Output:
        """Predict the targets (Equation 2), and keep hidden states on the way.

        Args:
            layers: Layers wanted, 0 to L.
            logits: Which are computed and returned: of every position; of those that predict a label; or
                none, and then a large vocabulary's never exist all at once.
            num_items_in_batch: Divides the summed cross-entropy; without it, the number of targets does.

        Gradient: through everything that is trained. Nothing here waits for an accelerator.
        """
        rows = decoder.MOST_LOGITS // self.model.config.get_text_config().vocab_size
        many = batch.labels is not None and logits == "none" and batch.num_targets > rows
        most = rows if many and self._head_is_plain else None  # asked out here: it runs a token of its own
        with self.decoder.packed(self._packing(batch)), self.decoder.capture(layers) as states:
            kept, score = self._scored(batch, logits, most)
        if score is None:
            return Output(states, kept)
        divisor = max(batch.num_targets, 1) if num_items_in_batch is None else num_items_in_batch
        return Output(states, kept, score[0] / divisor, score[1])

    def _scored(
        self, batch: Batch, keep: str, most: int | None
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Run the model: logits as ``keep`` says, and the score of the targets, ``most`` logits at a time."""
        inputs = {**self._inputs(batch), "use_cache": False}
        targets = None if batch.labels is None else Targets(batch.labels, batch.num_targets)
        if targets is None or keep == "all":
            logits = self.model(**inputs).logits
            return logits, None if targets is None else targets.score(take(logits, targets.where))
        head = self.model.get_output_embeddings()
        if most is None:
            with head_at(self.model, targets.where):
                logits = self.model(**inputs).logits[0]
            return logits, targets.score(logits)
        with head_at(self.model, targets.where, see=0) as states:
            self.model(**inputs)
        return None, targets.score_states(head, states[0], max(1, most // 2))

    @functools.cached_property
    def _head_is_plain(self) -> bool:
        return head_is_plain(self.model)

    @torch.no_grad()
    def generate(self, batch: Batch, **options: Any) -> Tensor:
        """Return the new tokens (B, n) that follow the prompts; ``options`` are transformers'."""
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **self._sound(batch)}
        if not self.is_ours:
            ends = {"eos_token_id": list(self.ends)} if self.ends else {}
            pad = {} if self.batcher is None else {"pad_token_id": self.batcher.pad}
            options = {**ends, **pad, **self.kind.forward_options, **options}
        return self.model.generate(**inputs, **options)[:, batch.input_ids.shape[1] :]
