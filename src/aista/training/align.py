"""Alignment first: speech tokens are brought to where the backbone's own text lies, before stage 1.

The window Q-Former and its projection are trained to let speech find its transcript in the batch (the
retrieval objective) at the embedding layer, where no block of the language model runs, or at chosen inner
layers. It takes minutes on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aista import processes, retrieval
from aista.alignment import PairedStates, Sizes, alignment
from aista.config import AlignSettings
from aista.errors import ConfigError, ModelInputError
from aista.model.lora import is_lora
from aista.model.weights import whole
from aista.retrieval.tokens import under_cost
from aista.speech_llm import Batch, Output
from aista.speech_llm.decoder import check_layers
from aista.training.objective import Joint, SpeechTextObjective
from aista.training.stages import Run, stage, starting_model
from aista.training.trainer import AistaTrainer


def align(settings: AlignSettings, trainer: type[AlignTrainer] | None = None) -> Run:
    """Train the Q-Former and the projection against the frozen backbone's text side.

    Running it again goes on where it stopped, or returns at once when it is finished. The folder is a model
    that ``aista pretrain --set init=FOLDER`` and ``aista select`` take; it cannot translate yet.

    Args:
        trainer: In place of ``AlignTrainer``, for measurements of its own.

    Raises:
        ConfigError: There is no such layer, or the method does not take these options or needs logits.
    """

    def start() -> AlignObjective:
        speech_llm = starting_model(settings)
        check_layers(settings.alignment.layers, speech_llm.num_layers)
        sizes = Sizes(speech_llm.hidden_size, speech_llm.vocabulary, settings.seed)
        layers = tuple(settings.alignment.layers)
        method = alignment(settings.alignment.method, layers, sizes, **settings.alignment.options)
        if method.needs_logits or not method.layers:
            raise ConfigError(
                "This method looks at no hidden states: it needs a whole pass of the language model.",
                got=settings.alignment.method,
                expected="retrieval, wasserstein, contrastive or ctc",
            )
        return AlignObjective(speech_llm, method)

    return stage(settings, start, trainer=trainer or AlignTrainer)


class AlignObjective(SpeechTextObjective):
    """The alignment losses alone, of the window Q-Former and the projection; LoRA stays as it is.

    Cost: both branches end below the highest aligned layer; at layer 0 no block runs.
    """

    def __init__(self, model: Any, method: Any) -> None:
        super().__init__(model, method, alpha=0.0)
        for name, parameter in self.model.named_parameters():
            if is_lora(name):
                parameter.requires_grad_(False)

    def kept_state(self) -> dict[str, Tensor]:
        """Return what a saved model holds: LoRA too, as it was."""
        lora = self.speech_llm.keeper.trainable_state_dict().items()
        return {f"model.{name}": whole(tensor) for name, tensor in lora} | super().kept_state()

    def forward(
        self,
        *,
        speech: Batch,
        text: Batch | None = None,
        num_items_in_batch: Tensor | float | None = None,
        num_pairs: Tensor | float | None = None,
        counted: bool = True,
    ) -> Joint:
        """Return the mean of the layers' losses of one micro-batch.

        Args:
            speech, text: What is heard, and the same with transcripts in its place.
            num_items_in_batch: Of no use here. num_pairs: Usable pairs of the optimiser step.
            counted: False: rows of weight 0, see :class:`SpeechTextObjective`.
        """
        losses, report, pairs = self.align(self.pairs(speech, text), num_pairs, counted=counted)
        parts = {name: value.detach() for name, value in losses.items()} | report
        return Joint(torch.stack(list(losses.values())).mean(), parts, pairs)

    def pairs(self, speech: Batch, text: Batch | None) -> PairedStates:
        """Return the states of speech and transcripts at the method's layers; no block above them runs."""
        if text is None:
            raise ModelInputError("An alignment needs transcripts.", advice="Give every row its text.")
        heard = Output(self.speech_llm.states(speech, self.alignment.layers))
        return self.paired_states(heard, speech, text)


class AlignTrainer(AistaTrainer):
    """Validates by retrieval: the MRR (Eq. 4) of the held-out pairs, the mean over the aligned layers.

    Raises:
        ConfigError: A row has no sound.
    """

    metric = "mrr"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for dataset in filter(None, (self.data.train, self.data.validation)):
            if not dataset.has_sound.all():
                row = dataset.utterance(int((~dataset.has_sound).argmax()))
                raise ConfigError(
                    "An alignment needs the sound of every text.",
                    got=f"{int((~dataset.has_sound).sum())} rows of task mt, e.g. {row.id!r}",
                    advice="Keep texts without sound for `aista pretrain` and `aista joint`.",
                )

    @torch.no_grad()
    def validation_metrics(self) -> dict[str, float]:
        """Return ``mrr`` and what chance would give; pairs are ranked by the cost that is trained."""
        objective: Any = self.trained_module
        device = self.accelerator.device
        found: list[tuple[dict[int, Tensor], dict[int, Tensor], tuple[int, ...]]] = []
        for batch, share in self.validation_batches():
            states = objective.pairs(batch["speech"].to(device), batch["text"].to(device))
            for row in range(len(states.speech_mask) * share):
                heard, read = states.speech_mask[row], states.text_mask[row]
                if heard.any() and read.any():
                    found.append(
                        (
                            {layer: side[row][heard].float().cpu() for layer, side in states.speech.items()},
                            {layer: side[row][read].float().cpu() for layer, side in states.text.items()},
                            tuple(states.transcript_ids[row][read].tolist()),
                        )
                    )
        pairs = [pair for share in processes.gather(found) for pair in share]
        cost = getattr(objective.alignment, "cost", "squared_euclidean")
        texts = [ids for _, _, ids in pairs]
        values = []
        for layer in objective.alignment.layers:
            sides = [speech[layer] for speech, _, _ in pairs], [text[layer] for _, text, _ in pairs]
            values.append(retrieval.exact_ranks(*under_cost(*sides, cost), texts=texts).mrr)
        return {self.metric: sum(values) / len(values), "mrr_by_chance": retrieval.chance_mrr(len(pairs))}
