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

import torch
from torch import Tensor
from transformers import (
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
)

from aista.errors import ConfigError
from aista.model.bases import locate, read_config
from aista.model.inputs import take
from aista.model.lora import switched
from aista.model.speech_lm import eval_mode
from aista.speech_llm import prediction
from aista.speech_llm.batch import Batch
from aista.speech_llm.batcher import Batcher
from aista.speech_llm.prediction import Targets, head_at, head_is_plain
from aista.speech_llm.states import Decoder


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


def require_placeholder(config: Any) -> None:
    """Demand a model that marks speech in ``input_ids``.

    Raises:
        ConfigError: There is no such mark: it is no speech LLM, or one that adds sound to every position.
    """
    if not isinstance(getattr(config, "audio_token_id", None), int):
        raise ConfigError(
            "This model has no placeholder for speech, so it is no speech LLM that can be used here.",
            got=getattr(config, "model_type", type(config).__name__),
            expected="config.audio_token_id",
            advice="A language model or an encoder is a base: see `aista pretrain`, or from_bases.",
        )


def auto_class(config: Any) -> Any:
    """Return the Auto class that makes models of a configuration: not all speech LLMs are in the same one.

    Raises:
        ConfigError: It is no speech LLM of transformers.
    """
    names_audio = hasattr(config, "audio_token_id")  # audioflamingo3 stands among translators of text
    more = (AutoModelForSeq2SeqLM,) if names_audio else ()
    for auto in (AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq, *more):
        if type(config) in auto._model_mapping:
            return auto
    raise ConfigError(
        "This is no speech LLM of transformers.",
        got=config.model_type,
        expected="aista, granite_speech, voxtral, qwen2_audio, audioflamingo3, ...",
    )


class SpeechLM:
    """Any speech LLM of the contract: hidden states, predictions, text in place of speech, generation.

    Args:
        model: A model of transformers' contract.
        processor: Its processor; None: batches are made elsewhere.

    Raises:
        ConfigError: The model has no placeholder for speech, or no list of blocks.
    """

    def __init__(self, model: Any, processor: Any = None) -> None:
        require_placeholder(model.config)
        self.model, self.processor = model, processor
        self.decoder = Decoder(model.get_decoder(), getattr(model, "blocks_path", "layers"))
        self.batcher: Any = Batcher(processor, model.config) if processor is not None else None

    @classmethod
    def load(cls, source: str | Path, *, revision: str | None = None, **options: Any) -> SpeechLM:
        """Load a model and its processor by id or folder; ``options`` go to the model.

        Raises:
            CheckpointError: There is no such model.
            ConfigError: It is no speech LLM.
        """
        folder = locate(str(source), revision=revision)
        config = read_config(folder)
        require_placeholder(config)
        auto = auto_class(config)
        return cls(auto.from_pretrained(folder, **options).eval(), AutoProcessor.from_pretrained(folder))

    @property
    def num_layers(self) -> int:
        """L; layers are numbered 0 (embeddings) to L (after the final norm)."""
        return self.decoder.num_layers

    @property
    def hidden_size(self) -> int:
        """d, the width of the hidden states."""
        return self.model.config.get_text_config().hidden_size

    def states(self, batch: Batch, layers: Iterable[int]) -> dict[int, Tensor]:
        """Return hidden states (B, T, d) by layer, with their gradient.

        Cost: no block above the highest layer runs, and no logit is computed.
        """
        layers, nowhere = list(layers), torch.zeros(0, dtype=torch.int64, device=batch.input_ids.device)
        with (
            self.decoder.truncated(layers),
            self.decoder.capture(layers) as states,
            head_at(self.model, nowhere),
        ):
            self.model(**batch.inputs(), use_cache=False)
        return states

    @torch.no_grad()
    def text_states(self, batch: Batch, layers: Iterable[int]) -> dict[int, Tensor]:
        """Return hidden states (B, S, d) of transcripts that stand where speech would (Section 4.3).

        Gradient: none. Cost: the decoder alone, up to the highest layer; for layer 0 no block. LoRA is
        active, dropout is off. At pads on the right: anything.
        """
        layers = list(layers)
        with (
            eval_mode(self.decoder.module),
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
            self.decoder.capture(layers) as states,
        ):
            logits = self.model(**batch.inputs(), use_cache=False).logits
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
        with self.decoder.capture(layers) as states:
            kept, score = self._scored(batch, logits)
        if score is None:
            return Output(states, kept)
        divisor = max(batch.num_targets, 1) if num_items_in_batch is None else num_items_in_batch
        return Output(states, kept, score[0] / divisor, score[1])

    def _scored(self, batch: Batch, keep: str) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Run the model: logits as ``keep`` says, and the score of the targets."""
        inputs = {**batch.inputs(), "use_cache": False}
        targets = None if batch.labels is None else Targets(batch.labels, batch.num_targets)
        if targets is None or keep == "all":
            logits = self.model(**inputs).logits
            return logits, None if targets is None else targets.score(take(logits, targets.where))
        head = self.model.get_output_embeddings()
        rows = prediction.MOST_LOGITS // self.model.config.get_text_config().vocab_size
        if keep == "targets" or len(targets.ids) <= rows or not self._head_is_plain:
            with head_at(self.model, targets.where):
                logits = self.model(**inputs).logits[0]
            return logits, targets.score(logits)
        with head_at(self.model, targets.where, see=0) as states:
            self.model(**inputs)
        return None, targets.score_states(head, states[0], max(1, rows // 2))

    @functools.cached_property
    def _head_is_plain(self) -> bool:
        return head_is_plain(self.model)

    @torch.no_grad()
    def generate(self, batch: Batch, **options: Any) -> Tensor:
        """Return the new tokens (B, n) that follow the prompts; ``options`` are transformers'."""
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.sound}
        return self.model.generate(**inputs, **options)[:, batch.input_ids.shape[1] :]
