"""Layers chosen again while training: stage 2 repeated every so many steps on the model as it then is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aista import processes, retrieval
from aista.config import ReselectSettings
from aista.data.collate import Collator, SpeechDataset
from aista.errors import ConfigError
from aista.files import write_whole
from aista.selection.hidden_states import paired_states
from aista.selection.select import draw_pairs
from aista.training.objective import SpeechTextObjective

CHOICES = "reselection.jsonl"
_BATCH = 32


class Reselection(TrainerCallback):
    """Rank training pairs at every layer and align those above the threshold from then on.

    What was chosen when is in ``reselection.jsonl`` (step, layers, MRR of every layer); a resumed run reads
    its layers there. If no layer passes, those before stay.

    Args:
        objective: Its method's layers are set.
        pairs: Utterances with speech and transcript that are ranked.
        settings: How often, and the threshold.
        output: The run's folder.

    Cost: a forward pass of both branches over the pairs and exact ranks at every layer, each time.

    Raises:
        ConfigError: The method works at layers of its own.
    """

    def __init__(
        self, objective: SpeechTextObjective, processor: Any, pairs: SpeechDataset,
        settings: ReselectSettings, output: Path,
    ) -> None:  # fmt: skip
        if objective.alignment.fixed_layers is not None or not objective.alignment.layers:
            raise ConfigError("alignment.reselect needs a method whose layers can be chosen.")
        self.objective, self.pairs, self.settings = objective, pairs, settings
        self.collator = Collator(processor, transcripts=True)
        self.path = output / CHOICES

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take up the choice of the step the run goes on from; forget later ones."""
        rows = [row for row in processes.by_main(self._rows) if row["step"] <= state.global_step]
        processes.by_main(lambda: self._keep(rows))
        if rows:
            self._align(rows[-1]["layers"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Choose again, if it is time."""
        if state.global_step % self.settings.every_steps or state.global_step >= state.max_steps:
            return
        mrr = self.mrr_by_layer()
        threshold = self.settings.threshold_times_chance * retrieval.chance_mrr(len(self.pairs))
        chosen = [layer for layer, value in enumerate(mrr) if value > threshold]
        layers = chosen or list(self.objective.alignment.layers)
        row = {"step": state.global_step, "layers": layers, "mrr": mrr, "threshold": threshold}
        processes.by_main(lambda: self._keep([*self._rows(), row]))
        self._align(layers)

    def mrr_by_layer(self) -> list[float]:
        """Return the mean reciprocal rank of the pairs at every layer of the model as it is (Eq. 3-4).

        No random number is drawn, and the model's training mode is restored.
        """
        model = self.objective.model
        layers = tuple(range(model.config.text_config.num_hidden_layers + 1))
        was_training = model.training
        batches = list(paired_states(model, self.pairs, self.collator, layers, _BATCH))
        model.train(was_training)
        texts = [row.text or "" for row in self.pairs.utterances()]
        both = (([s for batch in batches for s in batch[side][layer]] for side in (0, 1)) for layer in layers)
        return [retrieval.exact_ranks(speech, text, texts=texts).mrr for speech, text in both]

    def _align(self, layers: Sequence[int]) -> None:
        self.objective.alignment.layers = tuple(layers)

    def _rows(self) -> list[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def _keep(self, rows: Sequence[dict[str, Any]]) -> None:
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def draw(dataset: SpeechDataset, count: int, seed: int) -> SpeechDataset:
    """Draw the pairs to rank from the training data.

    Raises:
        ManifestError: There are not so many.
    """
    return dataset.subset(draw_pairs(dataset.utterances(), count, seed))
