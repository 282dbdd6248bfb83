"""Settings of every verb: one YAML file, validated, overridable by ``--set key=value``, saved resolved.

A setting that is not known is an error, never ignored. Paths in a file are taken relative to the working
directory, as on the command line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from aista.errors import ConfigError
from aista.files import write_whole
from aista.settings_text import as_yaml, override, read_settings

Content = Literal["manifest", "model", "layers"]
Dtype = Literal["float32", "bfloat16", "float16"]
Cost = Literal["squared_euclidean", "cosine", "standardised"]
Cloud = Literal["span", "sequence"]


def _expanded(path: str) -> str:
    """Return a path with ``~`` and ``$VARIABLES`` replaced, as a shell does; a file's own name stays."""
    if ("~" not in path[:1] and "$" not in path) or os.path.exists(path):
        return path
    found = os.path.expandvars(os.path.expanduser(path))
    if unknown := re.search(r"\$(?:\w+|\{[^}]*\})", found):
        raise ValueError(f"the environment has no variable {unknown[0]}")
    if found.startswith("~"):
        raise ValueError(f"there is no user {found.split('/')[0]}")
    return found


Name = Annotated[str, StringConstraints(min_length=1)]
PathName = Annotated[Name, AfterValidator(_expanded)]
Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Layer = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Base of all settings: immutable, and every key must be known.

    Attributes:
        harmless: Fields that change where a run writes, how fast it is or what it logs, but not its result:
            another attempt may have other values.
        contents: Fields that name files, and of what kind: manifests, models, reports of chosen layers. What
            is in those files belongs to a run as its settings do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
    harmless: ClassVar[frozenset[str]] = frozenset()
    contents: ClassVar[Mapping[str, Content]] = {}

    @model_validator(mode="before")
    @classmethod
    def _keep_the_defaults_of_a_section(cls, values: Any) -> Any:
        """Fill up a section that is given in part with this class's defaults, not with the section's own."""
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Settings) and isinstance(values.get(name), dict):
                filled[name] = _merged(field.default.model_dump(exclude_unset=True), values[name])
        return filled

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse ``true`` where a number belongs, which Python would take for 1."""
        if _holds_switch(value) and not _takes_switch(cls.model_fields[str(field.field_name)].annotation):
            raise ValueError("neither true nor false can stand here")
        return value

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        overrides: Iterable[str] = (),
        given: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read a YAML file (or start from the defaults) and apply ``dotted.key=value`` overrides.

        Args:
            path: The file.
            overrides: They win over the file, and of two the later.
            given: Values that win over both.

        Raises:
            ConfigError: The file cannot be read, or a key or a value is not allowed.
        """
        values = read_settings(Path(path)) if path is not None else {}
        for text in overrides:
            override(values, text)
        return cls.of({**values, **(given or {})}, source=str(path or "the command line"))

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
        write_whole(target, as_yaml(self.model_dump(mode="json")))

    def sha256(self) -> str:
        """Hash of the settings that make a result: equal results, equal hash."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return the settings that make a result, by their dotted keys: all but those that are harmless."""
        found: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in self._without_effect() or (name == "dtype" and value is None):
                continue  # a type that is not named is the machine's choice
            if isinstance(value, Settings):
                found |= {f"{name}.{key}": inner for key, inner in value.identity().items()}
            else:
                found[name] = self.model_dump(mode="json", include={name})[name]
        return found

    def _without_effect(self) -> frozenset[str]:
        return self.harmless

    def named_contents(self) -> Iterator[tuple[str, Content, str]]:
        """Yield (dotted key, kind, name) of every file that these settings name."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Settings):
                for key, kind, file in value.named_contents():
                    yield f"{name}.{key}", kind, file
            elif name in self.contents:
                files = [value] if isinstance(value, str) else value or []
                yield from ((name, self.contents[name], file) for file in files if isinstance(file, str))


def _explain(row: Any) -> str:
    place = ".".join(str(part) for part in row["loc"]) or "(top level)"
    if row["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    message = row["msg"].removeprefix("Value error, ")
    told = isinstance(row["input"], (dict, Settings)) or row["type"] == "missing"
    return f"{place}: {message}" if told else f"{place}: {message} (got {row['input']!r})"


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of a section with what is given in their place, key by key."""
    values = {**defaults, **given}
    for name, default in defaults.items():
        if isinstance(default, dict) and isinstance(given.get(name), dict):
            values[name] = _merged(default, given[name])
    return values


def _holds_switch(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_holds_switch, value)))


def _takes_switch(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_switch, get_args(annotation)))


class QFormerSettings(Settings):
    """Shape of the window Q-Former (defaults: SALMONN's).

    Attributes:
        frames_per_window, queries_per_window: The paper's L = 17 frames of 20 ms and N = 1 (5.2).
    """

    frames_per_window: Count = 17
    queries_per_window: Count = 1
    hidden_size: Count = 768
    num_hidden_layers: Count = 2
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_dropout_prob: Dropout = 0.1
    attention_probs_dropout_prob: Dropout = 0.1

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        return self


class LoraSettings(Settings):
    """Low-rank adapters in the backbone (docs/decisions, 9); no target named: the backbone family's own."""

    r: int = Field(default=8, ge=0)
    alpha: Count = 32
    dropout: Dropout = 0.1
    targets: list[Name] | None = None


class ModelSettings(Settings):
    """The frozen bases and the shape of what is trained between and inside them.

    Attributes:
        speech_window_seconds: Input length of the speech encoder, if shorter than its own (Whisper: 30 s).
            Short clips then cost a fraction; longer ones are treated as ``data.too_long`` says.
        template: Prompt template; None: the one that suits the backbone (``aista.text.prompts``).
        family: What is known of the backbone's parts: a module of ``aista.model.backbones``, or a dotted path
            to a third party's; None: by the backbone's ``model_type``.
        speech_token_scale: ``free``: the projection's outputs (the paper); ``embeddings``: they keep their
            direction and get the length of the backbone's own token embeddings.
    """

    contents = {"speech_encoder": "model", "backbone": "model", "audio_encoder": "model"}

    speech_encoder: PathName
    backbone: PathName
    audio_encoder: PathName | None = None
    qformer: QFormerSettings = QFormerSettings()
    lora: LoraSettings = LoraSettings()
    speech_tokens: Literal["voiced", "padded"] = "voiced"
    speech_window_seconds: float | None = Field(default=None, gt=0)
    speech_token_scale: Literal["free", "embeddings"] = "free"
    template: Name | None = None
    family: Name | None = None
    dtype: Dtype = "float32"
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

    harmless = frozenset({"features", "num_workers"})
    contents = {"train": "manifest", "validation": "manifest"}

    train: list[PathName] = Field(min_length=1)
    validation: list[PathName] = []
    weights: list[Annotated[float, Field(gt=0)]] | None = None
    features: PathName | None = None
    num_workers: int = Field(default=0, ge=0)
    max_corrupt_share: Share = 0.01
    max_seconds: float | None = Field(default=None, gt=0)
    too_long: Literal["error", "skip", "segment"] = "error"

    @model_validator(mode="after")
    def _every_manifest_has_a_weight(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.train):
            raise ValueError(f"{len(self.weights)} weights for {len(self.train)} training manifests")
        return self


class PartRates(Settings):
    """Peak learning rates of single parts; None: ``learning_rate``. The schedule scales all of them alike.

    Attributes:
        qformer: The LayerNorms, the queries and the window Q-Former. projection: To the backbone's width.
        lora: The adapters in the backbone. alignment: What the alignment method owns.
    """

    qformer: float | None = Field(default=None, gt=0, le=1)
    projection: float | None = Field(default=None, gt=0, le=1)
    lora: float | None = Field(default=None, gt=0, le=1)
    alignment: float | None = Field(default=None, gt=0, le=1)


class TrainSettings(Settings):
    """Optimisation; the defaults are the paper's stage 1 (A.1), but for ``precision``, and for the global
    batch on several devices. Names are those of ``TrainingArguments``.

    Attributes:
        global_batch_size: Utterances per optimiser step over all processes. Set, it decides how many
            micro-batches of ``per_device_train_batch_size`` are accumulated, so that one file gives the same
            steps on any number of devices.
        learning_rates: Peak learning rates of parts that differ from ``learning_rate``.
        salmonn_epoch_steps: Restart the warm-up every so many steps, as SALMONN's scheduler does at its
            epochs; for comparison with its runs alone.
        nonfinite: What a loss that is not finite does: ``stop`` the run, or ``skip`` the batch (and, on an
            accelerator, wait for it in every step). Either way nonfinite_batch.json names the utterances.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; None: transformers' choice.
        compile_blocks: Compile the backbone's blocks with ``torch.compile``.
        pack_rows: Let the backbone run a batch as one sequence, without pads, and what its rows begin with
            once: on a CPU a third less work at short rows. For backbones whose blocks all see all that came
            before (Qwen, Llama), under ``sdpa`` or ``eager``; others are refused.
    """

    harmless = frozenset({
        "per_device_eval_batch_size", "save_steps", "logging_steps", "report_to", "activation_checkpointing",
        "attn_implementation", "compile_blocks", "pack_rows",
    })  # fmt: skip

    max_steps: Count = 80_000
    global_batch_size: Count | None = None
    per_device_train_batch_size: Count = 32
    per_device_eval_batch_size: Count = 32
    gradient_accumulation_steps: Count = 1
    learning_rate: float = Field(default=3e-5, gt=0, le=1)
    learning_rates: PartRates = PartRates()
    warmup_start_learning_rate: Share = 1e-6
    min_learning_rate: Share = 1e-5
    warmup_steps: int = Field(default=9_000, ge=0)
    salmonn_epoch_steps: Count | None = None
    weight_decay: Share = 0.05
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0, le=1)
    max_grad_norm: float = Field(default=0.0, ge=0)
    precision: Literal["bf16", "fp32"] = "fp32"
    eval_steps: Count | None = None
    save_steps: Count = 1_000
    patience: Count | None = None
    logging_steps: Count = 20
    nonfinite: Literal["stop", "skip"] = "stop"
    activation_checkpointing: bool = False
    attn_implementation: Name | None = None
    compile_blocks: bool = False
    pack_rows: bool = False
    report_to: list[Name] = []

    def _without_effect(self) -> frozenset[str]:
        micro_batches = {"per_device_train_batch_size", "gradient_accumulation_steps"}
        return self.harmless | (micro_batches if self.global_batch_size else frozenset())

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.eval_steps and self.save_steps % self.eval_steps:
            raise ValueError(
                f"save_steps ({self.save_steps}) must be a multiple of eval_steps ({self.eval_steps})"
            )
        if self.patience and not self.eval_steps:
            raise ValueError("patience counts validations: set eval_steps")
        if self.global_batch_size and self.gradient_accumulation_steps != 1:
            raise ValueError("global_batch_size decides gradient_accumulation_steps: set only one of them")
        limits = {
            "max_steps": ("warmup_steps", "eval_steps"),
            "learning_rate": ("warmup_start_learning_rate", "min_learning_rate"),
        }
        faults = [
            f"{name} ({value}) must not exceed {limit} ({getattr(self, limit)})"
            for limit, names in limits.items()
            for name in names
            if (value := getattr(self, name) or 0) > getattr(self, limit)
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self


class AlignmentSettings(Settings):
    """How speech is drawn towards text (Eq. 6).

    Attributes:
        method: Module name in ``aista.alignment``, or a dotted path to a third party's; ``none`` = base.
        layers: Layer numbers, or the path of a layer report written by ``aista select``.
        alpha: Weight of the cross-entropy; ``1 - alpha`` is shared by the layers.
        options: Keyword arguments of the method.
    """

    contents = {"layers": "layers"}

    method: Name = "wasserstein"
    layers: list[Layer] | PathName = [0]
    alpha: Share = 0.99
    options: dict[str, Any] = {}

    def _without_effect(self) -> frozenset[str]:
        """Of the base, which is aligned nowhere: where it would be, and with which weight."""
        return self.harmless | ({"layers", "alpha"} if self.method == "none" else frozenset())

    def named_contents(self) -> Iterator[tuple[str, Content, str]]:
        """Yield the layer report, but for the base: it is aligned nowhere, so it needs no report."""
        if self.method != "none":
            yield from super().named_contents()


class _Stage(Settings):
    """What every stage of training has.

    Attributes:
        init: What it starts from: the folder of a saved model, such as one that ``aista align`` made; or the
            hub id or folder of any speech LLM of transformers. It may also be called ``model``.
        lora: Put into a speech LLM of transformers. A model of ours has its own: see ``model.lora``.
        dtype: Of the frozen weights of ``init``; None: bfloat16 on a GPU, float32 on a CPU.
    """

    harmless = frozenset({"output"})
    contents = {"init": "model"}

    output: PathName
    init: PathName | None = None
    lora: LoraSettings = LoraSettings()
    dtype: Dtype | None = None
    data: DataSettings
    train: TrainSettings = TrainSettings()
    prompt_pool: bool = False
    seed: Seed = 42

    @model_validator(mode="before")
    @classmethod
    def _a_model_by_name_is_where_to_start(cls, values: Any) -> Any:
        """Read ``model: NAME`` as ``init: NAME``, as selection and evaluation call it."""
        if not isinstance(values, dict) or not isinstance(values.get("model"), str):
            return values
        if values.get("init") is not None:
            raise ValueError("init and model both name what to start from: give one of them")
        return {**{name: value for name, value in values.items() if name != "model"}, "init": values["model"]}

    @model_validator(mode="before")
    @classmethod
    def _what_is_saved_is_validated(cls, values: Any) -> Any:
        """Let a stage's own ``eval_steps`` follow a ``save_steps`` that is given alone and does not fit."""
        train = values.get("train") if isinstance(values, dict) else None
        if not isinstance(train, dict) or "eval_steps" in train:
            return values
        every, saved = cls.model_fields["train"].default.eval_steps, train.get("save_steps")
        if every is None or not isinstance(saved, int) or saved % every == 0:
            return values
        return {**values, "train": {**train, "eval_steps": saved}}

    @model_validator(mode="after")
    def _what_is_to_be_validated_is(self) -> Self:
        """Validate at every ``save_steps`` where nothing is said of it; ``eval_steps: null`` says never."""
        train, some = self.train, bool(self.data.validation)
        if train.eval_steps and not some:
            raise ValueError(
                f"train.eval_steps is {train.eval_steps}, but data.validation names nothing to validate on: "
                "name a manifest, or set train.eval_steps and train.patience to null"
            )
        if some and "eval_steps" not in train.model_fields_set:
            if train.save_steps > train.max_steps:
                raise ValueError(
                    f"data.validation would never be used in {train.max_steps} steps: set train.eval_steps"
                )
            every = train.model_copy(update={"eval_steps": train.save_steps})
            object.__setattr__(self, "train", every)
        return self


class _FromBasesOrModel(_Stage):
    """A stage that starts from ``init``, or from new adapters between frozen bases: ``model``."""

    model: ModelSettings | None = None

    @model_validator(mode="after")
    def _starts_from_one_thing(self) -> Self:
        if (self.model is None) == (self.init is None):
            raise ValueError(
                "give either model (new adapters on bases) or init (a saved model, or any speech LLM)"
            )
        if self.model is not None and (self.lora != LoraSettings() or self.dtype is not None):
            raise ValueError("lora and dtype are of init: new adapters take model.lora and model.dtype")
        return self


class AlignTargets(Settings):
    """What speech is aligned with, and how.

    Attributes:
        method: A method of ``aista.alignment`` that looks at hidden states.
        layers: 0 is the embedding layer, where the language model does not run at all.
        options: Of the method: ``temperature``, ``similarity`` and ``cost`` of ``retrieval``.
    """

    method: Name = "retrieval"
    layers: list[Layer] = Field(default=[0], min_length=1)
    options: dict[str, Any] = {}


class AlignSettings(_FromBasesOrModel):
    """Alignment first: Q-Former and projection against the frozen backbone's text side, before stage 1.

    Attributes:
        data: ``validation`` names the held-out pairs whose MRR is shown and decides which model is kept.
        train: ``per_device_train_batch_size`` is also the number of texts each clip has to choose from.
    """

    train: TrainSettings = TrainSettings(
        max_steps=300, per_device_train_batch_size=48, learning_rate=1e-3, warmup_steps=20,
        warmup_start_learning_rate=1e-4, min_learning_rate=1e-5, max_grad_norm=1.0, eval_steps=50,
        save_steps=50, logging_steps=10,
    )  # fmt: skip
    alignment: AlignTargets = AlignTargets()


class PretrainSettings(_FromBasesOrModel):
    """Stage 1 (paper 4.1): speech recognition and audio captioning; the paper aligns nothing here."""

    alignment: AlignmentSettings = AlignmentSettings(method="none")
    prompt_pool: bool = True


class JointSettings(_Stage):
    """Stage 3 (paper 4.3): translation and alignment, from a stage-1 model or any speech LLM."""

    init: PathName
    train: TrainSettings = TrainSettings(
        warmup_steps=3_000, max_steps=90_000, eval_steps=3_000, save_steps=3_000, patience=4
    )
    alignment: AlignmentSettings = AlignmentSettings()


class SelectSettings(Settings):
    """Stage 2 (paper 4.2): which layers retrieve the right text for the speech.

    Attributes:
        threshold: Absolute MRR threshold (the paper's 0.05 at 1,000 pairs).
        max_seconds: Longer clips are not drawn (a speech encoder hears 30 s at most).
        threshold_times_chance: Threshold as a multiple of the chance MRR H_Q/Q, for another number of pairs;
            it replaces ``threshold`` where it is set. The paper's 0.05 at 1,000 pairs is 6.7 times chance.
        cost: Between tokens: ``squared_euclidean`` (the paper's), ``cosine``, or ``standardised`` (each side
            by its own mean and deviation, dimension by dimension).
        cloud: Positions that are compared: ``span``, the speech tokens and the transcript's; or ``sequence``,
            all positions up to their end, the prompt before them included.
        dtype: Of the frozen weights; None: bfloat16 on a GPU, float32 on a CPU.
        compare_costs: Also report the MRR under the other costs (``exact`` mode; each takes as long again).
    """

    harmless = frozenset({"output", "batch_size", "features"})
    contents = {"model": "model", "data": "manifest"}

    output: PathName
    model: PathName
    data: list[PathName] = Field(min_length=1)
    num_pairs: int = Field(default=1_000, ge=2)
    max_seconds: float | None = Field(default=None, gt=0)
    threshold: Share = 0.05
    threshold_times_chance: float | None = Field(default=None, ge=0)
    mode: Literal["exact", "decide"] = "exact"
    cost: Cost = "squared_euclidean"
    cloud: Cloud = "span"
    compare_costs: bool = True
    batch_size: Count = 16
    features: PathName | None = None
    dtype: Dtype | None = None
    seed: Seed = 42


class ProbeSettings(Settings):
    """What any speech LLMs are measured by, layer by layer.

    Attributes:
        models: Ids or folders; ``aista:NAME`` for one that comes with the package.
        data: Manifests of recordings with transcripts.
        num_pairs: At most so many different clips are drawn; chance and the controls depend on the number.
        max_seconds: Longer clips are not drawn.
        costs, clouds: Each is measured; see ``SelectSettings``.
        prompts: What stands before the span; each is measured. ``own``: the model's chat template. ``none``:
            nothing. Anything else is that text; ``\\n`` in it is a line end, and control tokens are such.
        dtype: Type that the model computes in; ``auto``: as its class is loaded otherwise.
        quantization: ``4bit`` or ``8bit``.
        plans: Ids of pairs whose transport plans are shown; none: the first three.
    """

    harmless = frozenset({"output", "batch_size"})
    contents = {"models": "model", "data": "manifest"}

    output: PathName
    models: list[PathName] = Field(min_length=1)
    data: list[PathName] = Field(min_length=1)
    num_pairs: int = Field(default=1_000, ge=2)
    max_seconds: float | None = Field(default=None, gt=0)
    costs: list[Cost] = ["squared_euclidean"]
    clouds: list[Cloud] = ["span"]
    prompts: list[str] = ["own"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["4bit", "8bit"] | None = None
    batch_size: Count = 8
    plans: list[str] = []
    seed: Seed = 42

    @field_validator("models", "costs", "clouds", "prompts")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if not names or len(set(names)) < len(names):
            raise ValueError("each must be named once, at least one")
        return names
