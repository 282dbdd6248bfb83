"""What is trained: a speech LLM and an alignment method as one module, whose forward is the loss (Eq. 6).

One module, so that an engine (DDP, FSDP, DeepSpeed) wraps one thing and synchronises the gradients of the
method's own parameters with the model's.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aista.alignment import PairedStates
from aista.alignment.base import Alignment, gather_pairs, joint_loss
from aista.errors import CheckpointError, ModelInputError
from aista.files import draft_of
from aista.model.loading import read_trained
from aista.model.lora import is_lora
from aista.model.weights import set_strictly, settle, whole
from aista.speech_llm import IGNORED, Batch, Output, SpeechLM, take_span

OWN_WEIGHTS = "objective.safetensors"
_MODEL = "model."


class Joint(NamedTuple):
    """What a forward pass of the objective gives.

    Attributes:
        loss: Scalar to descend.
        parts: Detached scalars by name. In training ``ce`` and every alignment loss: what this micro-batch
            contributes to the step's. ``token_accuracy`` and what the method reports: figures of this
            micro-batch. In validation ``correct`` and ``tokens`` (counts of targets) and ``ce`` (their sum).
        weights: How many targets or pairs stand behind each figure: a mean over micro-batches is a ratio of
            sums.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, Tensor | int] = {}


class SpeechTextObjective(nn.Module):
    """L = alpha CE + (1 - alpha) mean of the alignment losses.

    Args:
        model: The speech LLM, in its adapter or bare.
        alignment: The alignment method; ``none`` leaves the cross-entropy, with weight 1.
        alpha: Weight of the cross-entropy; the alignment has 1 - alpha.

    Equation: 2 (no alignment), 6.
    Gradient: through the speech branch and into the method's own parameters; the text branch runs without.
    """

    def __init__(self, model: Any, alignment: Alignment, alpha: float = 1.0) -> None:
        super().__init__()
        self.speech_llm = model if isinstance(model, SpeechLM) else SpeechLM(model)  # no module of its own
        self.model, self.alignment, self.alpha = self.speech_llm.model, alignment, alpha

    def train(self, mode: bool = True) -> SpeechTextObjective:
        """Set training mode; of somebody else's model only what is trained leaves eval mode."""
        super().train(mode)
        if not self.speech_llm.is_ours and self.speech_llm.keeper is not self.model:
            self.speech_llm.keeper.train(mode)
        return self

    def forward(
        self,
        *,
        speech: Batch,
        text: Batch | None = None,
        num_items_in_batch: Tensor | float | None = None,
        num_pairs: Tensor | float | None = None,
        counted: bool = True,
    ) -> Joint:
        """Return the loss of one micro-batch; in eval mode, the counts of a validation.

        Args:
            speech: What is heard, and its targets.
            text: Its rows with sound, transcripts in the place of it; None: there are none, or nothing is
                aligned. In eval mode it is not looked at.
            num_items_in_batch: Divides the summed cross-entropy: the target tokens of the optimiser step.
            num_pairs: Divides the summed alignment losses: the usable pairs of the optimiser step.
            counted: False: rows that stand in for none, so that this process takes part; their weight is 0.

        Equation: 2, 6.
        """
        if not self.training:
            return self._validate(speech)
        output: Any = self.speech_llm.predict(
            speech,
            self.alignment.layers,
            num_items_in_batch=num_items_in_batch,
            logits="all" if self.alignment.needs_logits else "none",
        )
        ce: Any = output.loss if counted else output.loss * 0.0
        parts = {"ce": ce.detach(), "token_accuracy": output.correct / max(speech.num_targets, 1)}
        weights: dict[str, Tensor | int] = {"token_accuracy": speech.num_targets * counted}
        # Without sound there is nothing to align, and the cross-entropy keeps its weight.
        losses: dict[str, Tensor] = dict.fromkeys(self.alignment.loss_names, ce.new_zeros(()))
        if self.alignment.active and text is not None:
            states = self.paired_states(output, speech, text)
            losses, report, pairs = self.align(states, num_pairs, counted=counted)
            weights, parts = weights | pairs, parts | report
        parts |= {name: value.detach() for name, value in losses.items()}
        return Joint(joint_loss(ce, losses, self.alpha), parts, weights)

    def align(
        self, states: PairedStates, num_pairs: Tensor | float | None, *, counted: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor | int]]:
        """Return the losses of some pairs, what the method reports, and how many pairs stand behind that."""
        if not counted:
            states = dataclasses.replace(states, text_mask=torch.zeros_like(states.text_mask))
        if self.alignment.over_batch:  # every process computes the loss of all pairs
            states, num_pairs = gather_pairs(states), None
        losses = self.alignment(states, num_pairs)
        report = {name: value.detach() for name, value in self.alignment.report.items()}
        return losses, report, dict.fromkeys(report, len(states.speech_mask) * counted)

    def usable_pairs(self, speech: Batch, text: Batch | None) -> Tensor:
        """Count the pairs of a batch that have an alignment loss: a scalar."""
        if not self.alignment.active or text is None:
            return torch.zeros((), dtype=torch.int64)
        return self.alignment.usable(speech.of_heard(speech.span), text.span, text.input_ids).sum()

    def _validate(self, speech: Batch) -> Joint:
        """Count correct and all target tokens, with teacher forcing."""
        output: Any = self.speech_llm.predict(speech)
        tokens = output.correct.new_full((), speech.num_targets)
        return Joint(output.loss, {"correct": output.correct, "tokens": tokens, "ce": output.loss * tokens})

    # ---- the two branches ----

    def paired_states(self, output: Output, speech: Batch, text: Batch) -> PairedStates:
        """Take the speech span of the speech branch and the transcript span of the text branch.

        Rows without sound are left out: there is nothing to pair.

        Args:
            output: Of the speech branch, with the method's layers captured.
        """
        states, text_logits = self._text_branch(text)
        transcript_ids, text_mask = take_span(text.input_ids, text.span, text.widest_span)
        speech_logits, mask = None, None
        span, width = speech.of_heard(speech.span), speech.widest_span
        if self.alignment.needs_logits and output.logits is not None and speech.labels is not None:
            speech_logits, mask = predictions(speech.of_heard(output.logits), speech.of_heard(speech.labels))
        return PairedStates(
            speech={k: take_span(speech.of_heard(s), span, width)[0] for k, s in output.states.items()},
            speech_mask=take_span(span, span, width)[1],
            text={k: take_span(s, text.span, text.widest_span)[0] for k, s in states.items()},
            text_mask=text_mask,
            transcript_ids=transcript_ids,
            speech_logits=speech_logits,
            text_logits=text_logits,
            logits_mask=mask,
        )

    def _text_branch(self, text: Batch) -> tuple[dict[int, Tensor], Tensor | None]:
        """Return the transcripts' hidden states (B, S, d) by layer and logits (B, T, V): what is wanted."""
        needed = self.alignment.needs_text or not self.training  # a validation ranks texts in any case
        wanted = self.alignment.layers if needed else ()
        if self.alignment.needs_logits:
            lora = not self.alignment.frozen_teacher
            output: Any = self.speech_llm.text_outputs(text, wanted, lora=lora)
            return output.states, predictions(output.logits, text.labels)[0]  # type: ignore[arg-type]
        return (self.speech_llm.text_states(text, wanted) if wanted else {}), None

    # ---- what engines look for on what they train ----

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def _no_split_modules(self) -> list[str]:
        """The blocks that an engine shards one by one: those of the bases' lists that are here."""
        here = {type(module).__name__ for module in self.model.modules()}
        return sorted(here & set(self.model._no_split_modules or ()))

    # ---- keeping ----

    def kept_state(self) -> dict[str, Tensor]:
        """Return the full values of what training changes, by their names here, and nothing of the bases.

        Of a sharded module one tensor at a time is gathered: every process has to ask.
        """
        settle(self)
        trained = {name: tensor for name, tensor in self.named_parameters() if tensor.requires_grad}
        return {name: whole(tensor) for name, tensor in {**trained, **self._own_state()}.items()}

    def _own_state(self) -> dict[str, Tensor]:
        """Return what belongs to the alignment, by the names here."""
        return self.alignment.state_dict(prefix="alignment.", keep_vars=True)

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Save the model's trained tensors, and in a file of their own the alignment's.

        Args:
            folder: Made if it does not exist.
            state: What ``kept_state`` returned, where that had to be asked for before.
        """
        state = self.kept_state() if state is None else state
        inner = {name.removeprefix(_MODEL): row for name, row in state.items() if name.startswith(_MODEL)}
        self.speech_llm.keeper.save_pretrained(folder, state_dict=inner)
        own = {name: state[name].detach().cpu().contiguous() for name in self._own_state()}
        if own:
            with draft_of(folder / OWN_WEIGHTS) as draft:
                save_file(own, draft)

    def load(self, folder: Path) -> None:
        """Set what ``save`` saved.

        Raises:
            CheckpointError: Tensors are missing, superfluous, misshapen or damaged.
        """
        settle(self)
        self.speech_llm.keeper.load_trainable(read_trained(folder))
        own, path = self._own_state(), folder / OWN_WEIGHTS
        if not own:
            return
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                "The alignment method's own weights are missing or damaged.", got=f"{path}: {error}"
            ) from error
        set_strictly("the alignment method", own, found)


class AlignObjective(SpeechTextObjective):
    """Alignment first: the alignment losses alone, of the window Q-Former and the projection.

    They let speech find its transcript in the batch before stage 1; LoRA stays as it is.

    Cost: both branches end below the highest aligned layer; at layer 0 no block of the language model runs.
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
        num_pairs: Tensor | float | None = None,
        counted: bool = True,
        **_: Any,
    ) -> Joint:
        """Return the mean of the layers' losses of one micro-batch; arguments as in the class above."""
        losses, report, pairs = self.align(self.pairs(speech, text), num_pairs, counted=counted)
        parts = {name: value.detach() for name, value in losses.items()} | report
        return Joint(torch.stack(list(losses.values())).mean(), parts, pairs)

    def pairs(self, speech: Batch, text: Batch | None) -> PairedStates:
        """Return the states of speech and transcripts at the method's layers; no block above them runs."""
        if text is None:
            raise ModelInputError("An alignment needs transcripts.", advice="Give every row its text.")
        heard = Output(self.speech_llm.states(speech, self.alignment.layers))
        return self.paired_states(heard, speech, text)


def predictions(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Take the places that predict a target token.

    Args:
        logits: (B, S, V); those at t predict the label at t + 1.
        labels: (B, S), -100 outside the target.

    Returns:
        (B, T, V) with T the longest target, and its mask (B, T) bool; what is masked is arbitrary.
    """
    return take_span(logits[:, :-1], labels[:, 1:] != IGNORED)
