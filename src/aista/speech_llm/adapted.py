"""Somebody else's speech LLM: loaded strictly, trained in part, kept as what was trained, merged into one.

Trained are LoRA in the decoder and the projector beside it; all else stays as it is, in eval mode. A saved
folder holds ``adapted.json`` (the base's id, revision and fingerprint, and the shape of LoRA) and
``model.safetensors`` (the trained tensors); the base and its processor stay where they are.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aista.errors import CheckpointError, ConfigError
from aista.files import write_whole
from aista.model import bases, loading
from aista.model.lora import add_lora, is_lora, merge
from aista.model.speech_lm import seeded
from aista.model.weights import fingerprint, set_strictly
from aista.speech_llm.classes import SpeechClass

ADAPTED = "adapted.json"
_SAMPLING = ("temperature", "top_p", "top_k", "typical_p", "min_p")


def load_whole(kind: Any, folder: Path, config: Any, options: loading.Options) -> Any:
    """Load a model of transformers; code beside its weights is never run.

    Args:
        kind: The Auto class, or class, that makes it.
        config: Its configuration, or that of the part that hears.

    Raises:
        CheckpointError: It is of another kind, or tensors are missing: it would run with random ones.
    """
    model = bases.load_whole(kind, folder, "speech LLM", config=config, **options.to_dict())
    for name in _SAMPLING:  # nothing is sampled here; what a repository says about it would only warn
        if hasattr(model.generation_config, name):
            setattr(model.generation_config, name, None)
    return model.eval()


def load_processor(kind: Any, folder: Path) -> Any:
    """Load a processor of transformers.

    Raises:
        CheckpointError: There is none, its tokenizer is missing, or it needs a package that is not installed.
    """
    try:
        processor = kind.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        raise CheckpointError(
            "This processor needs a package that is not installed.",
            got=" ".join(str(error).split()).split(". ")[0].removesuffix("."),
            advice="Install it beside aista, which itself does without.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        advice = "If the model was saved alone: AutoProcessor.from_pretrained(BASE).save_pretrained(FOLDER)."
        raise bases.refusal("This processor cannot be loaded.", folder, error, advice) from error
    bases.check_tokenizer(getattr(processor, "tokenizer", processor), str(folder))
    return processor


def describe(source: str, revision: str | None, folder: Path) -> dict[str, Any]:
    """Return how a checkpoint names its base: source, revision, and fingerprint of all its tensors."""
    loras = [
        (f"{path.relative_to(folder)}:{name}", tensor)  # a base may bring LoRA along
        for path in sorted(folder.rglob("adapter_model.safetensors"))
        for name, tensor in load_file(path).items()
    ]
    named = bases.describe(source, revision=revision)
    return named | {"fingerprint": fingerprint(itertools.chain(bases.tensors(folder), loras))}


class Adaptation:
    """What is trained of somebody else's model; it stands on the model as ``model.adaptation``.

    Args:
        model: Frozen, given LoRA in its decoder and a projector in float32.
        speech_class: What is known about its class.
        about: ``base`` (see ``describe``), ``lora`` (``r``, ``alpha``, ``dropout``, ``targets``), ``seed``,
            and what the model was trained for, ``directions``.

    Raises:
        ConfigError: LoRA finds no layer, or the class names no projector that is here.
    """

    def __init__(self, model: Any, speech_class: SpeechClass, about: dict[str, Any]) -> None:
        self.model, self.about = model, about
        model.requires_grad_(False)
        lora = about["lora"]
        targets = speech_class.lora_targets if lora["targets"] is None else lora["targets"]
        with seeded(about["seed"]):  # in the blocks alone: Phi-4's decoder holds its encoders as well
            add_lora(model.get_decoder().layers, lora, targets)
        ends = tuple(f".{name}" for name in speech_class.projector)
        self.projector = {n: part for n, part in model.named_modules() if f".{n}".endswith(ends)}
        if not self.projector:
            raise ConfigError(
                "Nothing of this model is known to be its projector.",
                got=model.config.model_type,
                expected=f"a module named {' or '.join(speech_class.projector)}",
                advice="Write a file for its class, see docs/guides/any-speech-llm.md.",
            )
        self._hooks: list[Any] = []
        for part in self.projector.values():
            self._hooks += _in_float32(part)
            part.requires_grad_(True)
        model.adaptation = self

    def train(self, mode: bool) -> None:
        """Set the mode of what is trained; encoders with their dropout and batch norms stay in eval mode."""
        self.model.eval()
        for part in (*self.model.get_decoder().layers, *self.projector.values()):
            part.train(mode)

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return the trained tensors by name (detached, not copied)."""
        inside = tuple(f"{name}." for name in self.projector)
        named = self.model.named_parameters()
        return {n: tensor.detach() for n, tensor in named if is_lora(n) or n.startswith(inside)}

    def load_trainable(self, state: dict[str, Tensor]) -> None:
        """Set the trained tensors.

        Raises:
            CheckpointError: Names or shapes differ in either direction.
        """
        set_strictly("the trained part of this model", self.trainable_state_dict(), state)

    def save_pretrained(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save what was trained, and what it stands on; files appear whole or not at all.

        Args:
            state_dict: Full tensors to save in place of the model's own, which may be sharded.
        """
        folder.mkdir(parents=True, exist_ok=True)
        own = self.trainable_state_dict()
        kept = own if state_dict is None else {name: state_dict[name] for name in own}
        loading.write_trained(folder, {name: kept[name].detach().cpu().contiguous() for name in own})
        write_whole(folder / ADAPTED, json.dumps(self.about, indent=1))

    def merge(self) -> Any:
        """Fold what was trained into the model, and return the plain model of its class."""
        merge(self.model)
        for hook in self._hooks:
            hook.remove()
        for part in self.projector.values():
            part.to(self.model.dtype)
        del self.model.adaptation
        return self.model


def _in_float32(part: nn.Module) -> list[Any]:
    """Let a part compute in float32 whatever surrounds it; nothing is done where it does already."""
    dtype = next(part.parameters()).dtype
    if dtype == torch.float32:
        return []
    part.to(torch.float32)

    def widened(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    def before(_: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
        return tuple(map(widened, args)), {name: widened(value) for name, value in options.items()}

    def after(_: nn.Module, __: tuple, output: Any) -> Any:
        return output.to(dtype) if isinstance(output, Tensor) else output

    return [part.register_forward_pre_hook(before, with_kwargs=True), part.register_forward_hook(after)]


def read_about(folder: Path) -> dict[str, Any]:
    """Read what a saved adaptation stands on.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        about = json.loads((folder / ADAPTED).read_text())
        about["base"]["source"], about["base"]["fingerprint"], about["lora"]["r"], about["seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError("This checkpoint is damaged.", got=f"{folder / ADAPTED}: {error!r}") from error
    return about
