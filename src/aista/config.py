"""Settings of every verb: one YAML file, validated, overridable by ``--set key=value``, saved resolved.

A setting that is not known is an error, never ignored. Paths in a file are taken relative to the working
directory, as on the command line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aista.errors import ConfigError
from aista.files import write_whole


class Settings(BaseModel):
    """Base of all settings: immutable, and every key must be known."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, overrides: Iterable[str] = ()) -> Self:
        """Read a YAML file (or start from the defaults) and apply ``dotted.key=value`` overrides.

        Raises:
            ConfigError: The file cannot be read, or a key or a value is not allowed.
        """
        values = _read_yaml(Path(path)) if path is not None else {}
        for override in overrides:
            _apply(values, override)
        return cls.of(values, source=str(path or "the command line"))

    @classmethod
    def of(cls, values: dict[str, Any], source: str = "the given values") -> Self:
        """Validate a plain dictionary.

        Raises:
            ConfigError: A key or a value is not allowed; the message lists each of them.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(
                f"The settings in {source} cannot be used.",
                got="; ".join(_explain(row) for row in error.errors()),
                expected=f"the fields of {cls.__name__}: {', '.join(cls.model_fields)}",
                advice="Mend the named keys in the YAML file or in --set key=value.",
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the resolved settings as YAML."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    def sha256(self) -> str:
        """Hash of the resolved settings: equal settings, equal hash."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the settings file {path}.", got=str(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML.", got=str(error)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} does not hold settings.", got=type(values).__name__, expected="key: value rows"
        )
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value``; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"Cannot understand the override {override!r}.", expected="key=value, e.g. train.max_steps=100"
        )
    *parents, last = key.strip().split(".")
    place = values
    for name in parents:
        inner = place.get(name)
        place[name] = dict(inner) if isinstance(inner, dict) else {}
        place = place[name]
    place[last] = yaml.safe_load(text)


def _explain(row: Any) -> str:
    place = ".".join(str(part) for part in row["loc"]) or "(top level)"
    return f"{place}: {'unknown key' if row['type'] == 'extra_forbidden' else row['msg']}"


class QFormerSettings(Settings):
    """Shape of the window Q-Former (defaults: SALMONN's, SALMONN.md section 3).

    Attributes:
        frames_per_window, queries_per_window: The paper's L = 17 frames of 20 ms and N = 1 (5.2).
    """

    frames_per_window: int = Field(default=17, ge=1)
    queries_per_window: int = Field(default=1, ge=1)
    hidden_size: int = 768
    num_hidden_layers: int = 2
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1


class LoraSettings(Settings):
    """Low-rank adapters in the backbone (DESIGN decision 9); no target named: the backbone family's own."""

    r: int = 8
    alpha: int = 32
    dropout: float = 0.1
    targets: list[str] | None = None


class ModelSettings(Settings):
    """The frozen bases and the shape of what is trained between and inside them.

    Attributes:
        speech_window_seconds: Input length of the speech encoder, if shorter than its own (Whisper: 30 s).
            Short clips then cost a fraction; longer ones are treated as ``data.too_long`` says.
        template: Prompt template; None: the one that suits the backbone (``aista.text.prompts``).
        speech_token_scale: ``free``: the projection's outputs (the paper); ``embeddings``: they keep their
            direction and get the length of the backbone's own token embeddings.
    """

    speech_encoder: str
    backbone: str
    audio_encoder: str | None = None
    qformer: QFormerSettings = QFormerSettings()
    lora: LoraSettings = LoraSettings()
    speech_tokens: Literal["voiced", "padded"] = "voiced"
    speech_window_seconds: float | None = Field(default=None, gt=0)
    speech_token_scale: Literal["free", "embeddings"] = "free"
    template: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["8bit", "4bit"] | None = None


class DataSettings(Settings):
    """Manifests to train and validate on.

    Attributes:
        train, validation: JSONL manifests.
        weights: Share of each training manifest in an epoch, in their order; None: every row once.
        features: Folder where the frozen encoders' outputs are kept; None: they run in every step.
        num_workers: Processes that read and decode.
        max_corrupt_share: Share of the clips that may be unreadable; each is logged and replaced.
        max_seconds: The longest clip that is taken as it is; None: what the model hears at once.
        too_long: What becomes of longer ones: ``error``; ``skip``; or ``segment``: cut at the ``segments`` of
            their rows, captioned sounds to their beginning, the others skipped. Each is counted and logged.
    """

    train: list[str] = Field(min_length=1)
    validation: list[str] = []
    weights: list[float] | None = None
    features: str | None = None
    num_workers: int = 0
    max_corrupt_share: float = 0.01
    max_seconds: float | None = None
    too_long: Literal["error", "skip", "segment"] = "error"

    @model_validator(mode="after")
    def _every_manifest_has_a_weight(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.train):
            raise ValueError(f"{len(self.weights)} weights for {len(self.train)} training manifests")
        return self


class TrainSettings(Settings):
    """Optimisation; the defaults are the paper's stage 1 (A.1). Names are those of ``TrainingArguments``.

    Attributes:
        global_batch_size: Utterances per optimiser step over all processes. Set, it decides how many
            micro-batches of ``per_device_train_batch_size`` are accumulated, so that one file gives the same
            steps on any number of devices.
        salmonn_epoch_steps: Restart the warm-up every so many steps, as SALMONN's scheduler does at its
            epochs; for comparison with its runs alone.
        nonfinite: What a loss that is not finite does: ``stop`` the run, or ``skip`` the batch (and, on an
            accelerator, wait for it in every step). Either way nonfinite_batch.json names the utterances.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; None: transformers' choice.
        compile_blocks: Compile the backbone's blocks with ``torch.compile``.
    """

    max_steps: int = 80_000
    global_batch_size: int | None = Field(default=None, ge=1)
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-5
    warmup_start_learning_rate: float = 1e-6
    min_learning_rate: float = 1e-5
    warmup_steps: int = 9_000
    salmonn_epoch_steps: int | None = None
    weight_decay: float = 0.05
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 0.0
    precision: Literal["bf16", "fp32"] = "fp32"
    eval_steps: int | None = None
    save_steps: int = 1_000
    patience: int | None = None
    logging_steps: int = 20
    nonfinite: Literal["stop", "skip"] = "stop"
    activation_checkpointing: bool = False
    attn_implementation: str | None = None
    compile_blocks: bool = False
    report_to: list[str] = []

    @model_validator(mode="after")
    def _saves_fall_on_validations(self) -> Self:
        if self.eval_steps and self.save_steps % self.eval_steps:
            raise ValueError(
                f"save_steps ({self.save_steps}) must be a multiple of eval_steps ({self.eval_steps})"
            )
        if self.patience and not self.eval_steps:
            raise ValueError("patience counts validations: set eval_steps")
        return self

    @model_validator(mode="after")
    def _one_word_on_the_batch(self) -> Self:
        if self.global_batch_size and self.gradient_accumulation_steps != 1:
            raise ValueError("global_batch_size decides gradient_accumulation_steps: set only one of them")
        return self


# Keys of AlignmentSettings up to the tag before-redesign, with the only meaning that is left.
_RETIRED = {"balance": "fixed", "alpha_end": None, "reselect": None}


class AlignmentSettings(Settings):
    """How speech is drawn towards text (Eq. 6).

    Attributes:
        method: Module name in ``aista.alignment``, or a dotted path to a third party's; ``none`` = base.
        layers: Layer numbers, or the path of a layer report written by ``aista select``.
        alpha: Weight of the cross-entropy; ``1 - alpha`` is shared by the layers.
        options: Keyword arguments of the method.
    """

    method: str = "wasserstein"
    layers: list[int] | str = [0]
    alpha: float = Field(default=0.99, ge=0, le=1)
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_settings_of_older_runs(cls, values: Any) -> Any:
        """Drop retired keys that say what is the only way now; a run that used one of them is refused."""
        if not isinstance(values, dict):
            return values
        kept = {name: value for name, value in values.items() if name not in (*_RETIRED, "ratio")}
        for name, only in _RETIRED.items():
            if values.get(name, only) != only:
                raise ValueError(f"{name} is gone: it did not help (LOG.md); the tag before-redesign has it")
        return kept


class PretrainSettings(Settings):
    """Stage 1 (paper 4.1): speech recognition and audio captioning; the paper aligns nothing here."""

    output: str
    model: ModelSettings
    data: DataSettings
    train: TrainSettings = TrainSettings()
    alignment: AlignmentSettings = AlignmentSettings(method="none")
    prompt_pool: bool = True
    seed: int = 42


class JointSettings(Settings):
    """Stage 3 (paper 4.3): translation and alignment, from a stage-1 model."""

    output: str
    init: str
    data: DataSettings
    train: TrainSettings = TrainSettings(
        warmup_steps=3_000, max_steps=90_000, eval_steps=3_000, save_steps=3_000, patience=4
    )
    alignment: AlignmentSettings = AlignmentSettings()
    prompt_pool: bool = False
    seed: int = 42


class SelectSettings(Settings):
    """Stage 2 (paper 4.2): which layers retrieve the right text for the speech.

    Attributes:
        threshold: Absolute MRR threshold (the paper's 0.05 at 1,000 pairs).
        max_seconds: Longer clips are not drawn (a speech encoder hears 30 s at most).
        threshold_times_chance: Threshold as a multiple of the chance MRR H_Q/Q, for another number of pairs;
            it replaces ``threshold`` where it is set. The paper's 0.05 at 1,000 pairs is 6.7 times chance.
        cost: Between tokens: ``squared_euclidean`` (the paper's), ``cosine``, or ``standardised`` (each side
            by its own mean and deviation, dimension by dimension).
        compare_costs: Also report the MRR under the other costs (``exact`` mode; each takes as long again).
    """

    output: str
    model: str
    data: list[str] = Field(min_length=1)
    num_pairs: int = Field(default=1_000, ge=2)
    max_seconds: float | None = None
    threshold: float = 0.05
    threshold_times_chance: float | None = None
    mode: Literal["exact", "decide"] = "exact"
    cost: Literal["squared_euclidean", "cosine", "standardised"] = "squared_euclidean"
    compare_costs: bool = True
    batch_size: int = 16
    features: str | None = None
    seed: int = 42
