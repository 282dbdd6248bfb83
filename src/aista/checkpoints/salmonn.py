"""SALMONN's checkpoints, read and written: the same tensors, every key accounted for.

A SALMONN file is ``{"model", "optimizer", "config", "scaler", "epoch"}``; ``model`` holds what was trained,
and some tensors that leaked into it. Nothing in it tells which frozen models it belongs to, so everything
that can be checked against them is.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aista.errors import CheckpointError
from aista.files import draft_of
from aista.model import loading
from aista.model.configuration import AistaConfig
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.model.weights import read_pickle, require_match

_LLM = "llama_model.base_model.model."
_QFORMER = "speech_Qformer.bert."
# SALMONN's stems -> ours, below ``window_qformer.``
_STEMS = {
    "speech_query_tokens": "query",
    "ln_speech": "speech_norm",
    "ln_audio": "audio_norm",
    "speech_llama_proj": "projection",
    "speech_Qformer.bert.embeddings.LayerNorm": "qformer.layernorm",
}
_POSITION_IDS = f"{_QFORMER}embeddings.position_ids"
_ANY_LLM = r"llama_model\.(base_model\.model\.)?"  # peft's part of the name is there with LoRA only
_INV_FREQ = re.compile(_ANY_LLM + r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")
_BEATS_TABLE = re.compile(r"beats\.encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight$")
PROMPT_TEMPLATE = "USER: {}\nASSISTANT:"
_LEAKS = {
    "position numbers of the Q-Former": re.compile(re.escape(_POSITION_IDS) + "$"),
    "rotary frequencies of the LLM": _INV_FREQ,
    "BEATs' shared position table": _BEATS_TABLE,
    "a tied LM head": re.compile(_ANY_LLM + r"lm_head\.weight$"),
}
# The language models of the released checkpoints, told apart by their configurations: (hidden size, layers)
# -> name, longest sequence, epsilon. Vicuna 1.1 comes from LLaMA 1, Vicuna 1.5 from Llama 2.
_RELEASED = {(5120, 40): ("Vicuna-13B v1.1", 2048, 1e-6), (4096, 32): ("Vicuna-7B v1.5", 4096, 1e-5)}


@dataclass
class ImportReport:
    """What became of every key of a SALMONN checkpoint.

    Attributes:
        taken: SALMONN's key -> ours.
        leaks: What a leaked tensor is -> its keys; they are not used.
        checks: What was compared with the frozen models, and held.
    """

    taken: dict[str, str] = field(default_factory=dict)
    leaks: dict[str, list[str]] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        leaked = sum(map(len, self.leaks.values()))
        lines = [f"{len(self.taken) + leaked} keys: {len(self.taken)} taken, {leaked} leaked, 0 unexplained"]
        lines += [f"  ignored: {len(keys)} x {what}" for what, keys in self.leaks.items()]
        lines += [f"  checked: {check}" for check in self.checks]
        return "\n".join(lines)


def our_name(name: str) -> str | None:
    """Translate one of SALMONN's keys; None if it is not a trained tensor of the model."""
    if name.startswith(_LLM) and ".lora_" in name:
        return "backbone." + name.removeprefix(_LLM)
    stem, _, leaf = name.rpartition(".")
    if name in _STEMS:
        return f"window_qformer.{_STEMS[name]}"
    if stem in _STEMS:
        return f"window_qformer.{_STEMS[stem]}.{leaf}"
    if name.startswith(f"{_QFORMER}encoder.layer."):
        inner = name.removeprefix(_QFORMER).replace("attention.self.", "attention.attention.")
        return f"window_qformer.qformer.{inner}"
    return None


def salmonn_name(name: str) -> str:
    """Translate one of our trained tensors' names into SALMONN's."""
    if name.startswith("backbone."):
        return _LLM + name.removeprefix("backbone.")
    inner = name.removeprefix("window_qformer.")
    for theirs, ours in _STEMS.items():
        if inner == ours or inner.startswith(f"{ours}."):
            return theirs + inner.removeprefix(ours)
    return _QFORMER + inner.removeprefix("qformer.").replace("attention.attention.", "attention.self.")


@dataclass(frozen=True)
class FrozenModels:
    """What a SALMONN was trained on top of.

    Attributes:
        whisper: Whisper-large-v2, folder or hub id.
        beats: The BEATs ``.pt`` file; None for a SALMONN that was trained without.
        llm: Vicuna, folder or hub id.
    """

    whisper: str
    beats: str | None
    llm: str


def load(
    path: str | Path,
    frozen: FrozenModels,
    *,
    qformer_heads: int | None = None,
    parity: bool = False,
    any_llm: bool = False,
    options: loading.Options | None = None,
) -> AistaForConditionalGeneration:
    """Build SALMONN from one of its checkpoints and its three frozen models.

    Args:
        path: ``salmonn_v1.pth`` or one that SALMONN's training wrote.
        frozen: The models that it was trained on top of.
        qformer_heads: Attention heads of the Q-Former, which no tensor tells; by default 64 dimensions each
            (12 at the real size), and 4 heads where it is narrower than 128.
        parity: Reproduce SALMONN's numbers to the last habit: BEATs features that depend on the batch, pads
            that consume positions, a ``[PAD]`` row in the vocabulary. Off: the same weights, without those.
        any_llm: Take a language model of the right size that is not the one SALMONN released weights for.
        options: How the frozen models are loaded.

    Returns:
        The model; its ``import_report`` says what became of every key.

    Raises:
        CheckpointError: The file is unsafe, damaged or of another kind; a key is missing, superfluous,
            renamed or misshapen; or a frozen model is visibly not the one it was trained with.
    """
    state, settings = read(path)
    report = sort_keys(state)
    config = _configure(state, settings, frozen, qformer_heads, parity)
    _require_llm(state, config, any_llm)
    loading.identify_bases(config)
    parts = loading.load_parts(config, options or loading.Options())
    _check_leaks(state, parts["audio_encoder"], config, report)
    model = AistaForConditionalGeneration(config, **parts)
    taken = {ours: state[theirs] for theirs, ours in report.taken.items()}
    require_match(
        f"SALMONN ({Path(path).name})",
        {salmonn_name(name): tensor for name, tensor in taken.items()},
        {salmonn_name(name): tensor for name, tensor in model.trainable_state_dict().items()},
        advice="Are these the frozen models that this checkpoint was trained with?",
    )
    model.load_trainable(taken)
    model.import_report = report
    return model


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a SALMONN file: its tensors, and the settings of its model.

    Raises:
        CheckpointError: It is unsafe, damaged, or of another kind.
    """
    content = read_pickle(path)
    state = content.get("model")
    if not isinstance(state, dict) or "speech_query_tokens" not in state:
        raise CheckpointError(
            "This is not a SALMONN checkpoint.",
            got=f"{path} with the keys {sorted(map(str, content))[:8]}",
            expected="a dictionary whose 'model' holds speech_query_tokens",
        )
    config = content.get("config")
    settings = config.get("model") if isinstance(config, dict) else None
    return state, dict(settings) if isinstance(settings, dict) else {}


def sort_keys(state: Mapping[str, Tensor]) -> ImportReport:
    """Sort every key into taken, leaked or refused.

    Raises:
        CheckpointError: A key is none of what SALMONN writes.
    """
    report, unknown = ImportReport(), []
    for name in state:
        ours = our_name(name)
        leak = next((what for what, pattern in _LEAKS.items() if pattern.match(name)), None)
        if leak is not None:
            report.leaks.setdefault(leak, []).append(name)
        elif ours is not None:
            report.taken[name] = ours
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            "There are tensors in this SALMONN checkpoint that nothing explains.",
            got="; ".join(unknown[:6]),
            advice="Was it changed, or written by other code than SALMONN's?",
        )
    return report


def _configure(
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    frozen: FrozenModels,
    heads: int | None,
    parity: bool,
) -> AistaConfig:
    """Derive the model's configuration from the shapes of the tensors and the settings beside them."""
    length, stride = (float(settings.get(name, 0.333333)) for name in ("second_per_window", "second_stride"))
    if not settings.get("use_speech_Qformer", True) or not settings.get("window_level_Qformer", True):
        raise CheckpointError("This SALMONN was trained without the window-level Q-Former.")
    if round(50 * length) != round(50 * stride):
        raise CheckpointError(
            "This SALMONN was trained with windows that overlap or leave gaps.",
            got=f"second_per_window {length}, second_stride {stride}",
            expected="the same twice",
        )
    if settings.get("prompt_template", PROMPT_TEMPLATE) != PROMPT_TEMPLATE:
        warnings.warn(
            f"This checkpoint was trained with another prompt than ours: {settings['prompt_template']!r}",
            stacklevel=3,
        )
    _, queries, width = state["speech_query_tokens"].shape
    layers = {match[1] for name in state if (match := re.match(rf"{_QFORMER}encoder\.layer\.(\d+)\.", name))}
    lora = [name for name in state if ".lora_A." in name]
    inner = state.get(f"{_QFORMER}encoder.layer.0.intermediate_query.dense.weight")
    if inner is None or not layers:
        raise CheckpointError("The Q-Former is missing from this SALMONN checkpoint.")
    if ("ln_audio.weight" in state) != (frozen.beats is not None):
        if frozen.beats is None:
            raise CheckpointError("This checkpoint was trained with BEATs.", advice="Give --beats PATH.")
        raise CheckpointError("This checkpoint was trained without BEATs.", advice="Leave --beats out.")
    return loading.configure(
        frozen.whisper,
        frozen.llm,
        frozen.beats,
        qformer={
            "hidden_size": width,
            "num_attention_heads": heads or (width // 64 if width >= 128 else 4),
            "intermediate_size": inner.shape[0],
            "num_hidden_layers": len(layers),
            "frames_per_window": round(50 * length),
            "queries_per_window": queries,
        },
        lora={
            "r": state[lora[0]].shape[0] if lora else 0,
            "alpha": settings.get("lora_alpha", 32),
            "dropout": settings.get("lora_dropout", 0.1),
            "targets": sorted({name.split(".lora_A.")[0].rpartition(".")[2] for name in lora}),
        },
        speech_tokens="padded",
        position_ids="slots" if parity else "mask",
        template="vicuna",
        batch_invariant=not parity,
        extra_rows=1 if parity else 0,
    )


def _require_llm(state: Mapping[str, Tensor], config: AistaConfig, any_llm: bool) -> None:
    """Refuse a language model of another size, or of another generation than the released weights'."""
    text = config.text_config
    numbers = [int(match[1]) for name in state if (match := re.search(r"\.layers\.(\d+)\..*lora_A", name))]
    layers = max(numbers, default=text.num_hidden_layers - 1) + 1
    wanted = (state["speech_llama_proj.weight"].shape[0], layers)
    found = (text.hidden_size, text.num_hidden_layers)
    named = _RELEASED.get(wanted, ("the language model this checkpoint was trained with",))[0]
    if found != wanted:
        raise CheckpointError(
            "This checkpoint belongs to a language model of another size.",
            got="hidden size {}, {} layers".format(*found),
            expected="hidden size {}, {} layers".format(*wanted),
            advice=f"Give {named} as --llm.",
        )
    if wanted not in _RELEASED or any_llm:
        return
    _, longest, epsilon = _RELEASED[wanted]
    if (text.max_position_embeddings, text.rms_norm_eps) != (longest, epsilon):
        raise CheckpointError(
            f"This is not {named}, which SALMONN's weights of this size were trained with.",
            got=f"max_position_embeddings {text.max_position_embeddings}, rms_norm_eps {text.rms_norm_eps}",
            expected=f"max_position_embeddings {longest}, rms_norm_eps {epsilon}",
            advice=f"Give {named}; or, if you trained this checkpoint on another one, --any-llm.",
        )


def _check_leaks(
    state: Mapping[str, Tensor], audio_encoder: Any, config: AistaConfig, report: ImportReport
) -> None:
    """Use what leaked to recognise the frozen models."""
    tables = [state[name] for name in state if _BEATS_TABLE.match(name)]
    if tables and audio_encoder is not None:
        own = audio_encoder.relative_bias.weight
        if any(table.shape != own.shape or not torch.equal(table.float(), own.cpu()) for table in tables):
            raise CheckpointError(
                "This is not the BEATs model that the checkpoint was trained with.",
                got="another relative position table",
                advice="SALMONN uses BEATs_iter3+ (AS2M), fine-tuned on AS2M, cpt2.",
            )
        report.checks.append("BEATs is the one it was trained with (its position table is the same)")
    frequencies = [state[name] for name in state if _INV_FREQ.match(name)]
    if frequencies:
        own = inverse_frequencies(config)
        if any(found.shape != own.shape for found in frequencies):
            raise CheckpointError(
                "This checkpoint belongs to a language model with other attention heads.",
                got=f"{own.numel()} rotary frequencies",
                expected=frequencies[0].numel(),
            )
        report.checks.append("the LLM's hidden size, layers and rotary frequencies agree")


def inverse_frequencies(config: AistaConfig) -> Tensor:
    """Return the rotary frequencies of the backbone, as transformers 4.28 computed them: (head size / 2,)."""
    text = config.text_config
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    base = (getattr(text, "rope_parameters", None) or {}).get("rope_theta", 10_000.0)
    return 1.0 / (base ** (torch.arange(0, size, 2).float() / size))


def export(model: AistaForConditionalGeneration, path: str | Path) -> None:
    """Write a model as a SALMONN checkpoint, leaks included, so that SALMONN's own code can read it.

    Args:
        model: A model of this package, with SALMONN's plain projection and whole window of 30 s. (Its code
            expects a Llama and the Q-Former's real size.)
        path: The ``.pth`` file.

    Raises:
        CheckpointError: SALMONN's code cannot do what this model was trained with.

    Warns where SALMONN's code will hear or ask otherwise: it takes all windows, those after the sound too.
    """
    config = model.config
    unknown = {
        "model.speech_token_scale: embeddings": config.speech_token_length is not None,
        "model.speech_window_seconds": config.speech_window_seconds is not None,
    }
    if refused := [name for name, is_set in unknown.items() if is_set]:
        raise CheckpointError(
            "SALMONN's code has no place for a setting that this model was trained with.",
            got=", ".join(refused),
            expected="a model trained without it",
        )
    other = {"speech_tokens: padded": config.speech_tokens, "template: vicuna": config.template}
    if differs := [f"{wanted} (here {got})" for wanted, got in other.items() if not wanted.endswith(got)]:
        warnings.warn(f"SALMONN's code works with {', '.join(differs)}: answers will differ.", stacklevel=2)
    seconds = 0.333333 if config.frames_per_window == 17 else config.frames_per_window / 50  # as published
    settings = {
        "lora": config.lora["r"] > 0,
        "lora_rank": config.lora["r"],
        "lora_alpha": config.lora["alpha"],
        "lora_dropout": config.lora["dropout"],
        "num_speech_query_token": config.queries_per_window,
        "second_per_window": seconds,
        "second_stride": seconds,
        "prompt_template": PROMPT_TEMPLATE,
        "end_sym": "</s>",
    }
    state = {"model": salmonn_state(model), "optimizer": {}, "config": {"model": settings}}
    with draft_of(Path(path)) as draft:
        torch.save(state | {"scaler": None, "epoch": 0}, draft)


def salmonn_state(model: AistaForConditionalGeneration) -> dict[str, Tensor]:
    """Return the ``model`` part of a SALMONN checkpoint, in SALMONN's order."""
    trained = {salmonn_name(n): t.detach().cpu().clone() for n, t in model.trainable_state_dict().items()}
    state = {"speech_query_tokens": trained.pop("speech_query_tokens")}
    frequencies = inverse_frequencies(model.config)
    lora = [name for name in trained if name.startswith(_LLM)]
    for layer in range(model.config.text_config.num_hidden_layers):
        state |= {name: trained.pop(name) for name in lora if f".layers.{layer}." in name}
        state[f"{_LLM}model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = frequencies.clone()
    state |= {name: trained.pop(name) for name in ("ln_speech.weight", "ln_speech.bias")}
    if model.audio_encoder is not None:
        shared: Any = getattr(model.audio_encoder, "relative_bias", None)
        for layer in range(1, model.config.audio_config.num_hidden_layers if shared is not None else 0):
            name = f"beats.encoder.layers.{layer}.self_attn.relative_attention_bias.weight"
            state[name] = shared.weight.detach().cpu().clone()
        state |= {name: trained.pop(name) for name in ("ln_audio.weight", "ln_audio.bias")}
    projection = {name: trained.pop(name) for name in ("speech_llama_proj.weight", "speech_llama_proj.bias")}
    state[_POSITION_IDS] = torch.arange(512)[None]
    return state | trained | projection
