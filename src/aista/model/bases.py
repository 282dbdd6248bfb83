"""The frozen models that a speech LLM is built on: finding, loading and recognising them."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from aista.errors import CheckpointError
from aista.files import no_answer
from aista.model.beats import BeatsModel, read_checkpoint
from aista.model.configuration import BeatsConfig
from aista.model.weights import fingerprint, load_strictly, read_pickle, require_match

PACKAGED = "aista:"
SHORT_NAMES = ("base",)  # shipped models that are called by their bare names
ROLES = ("speech_encoder", "audio_encoder", "backbone")
_HUB_FILES = ("*.json", "*.safetensors*", "*.model", "*.txt", "*.jinja", "pytorch_model*.bin*", "*.pt")


def locate(source: str, *, revision: str | None = None, beside: Path | None = None) -> Path:
    """Find a base on this machine, or fetch it from the hub.

    Args:
        source: ``aista:NAME`` (shipped with the package; ``base`` alone, too), a path (absolute, relative to
            the working directory or to ``beside``), or a hub id.
        revision: Commit, tag or branch, for a hub id.
        beside: Folder of the checkpoint that names this base.

    Returns:
        A folder, or a file (BEATs).

    Raises:
        CheckpointError: It is nowhere.
    """
    source = full_name(source)
    if source.startswith(PACKAGED):
        folder = importlib.resources.files("aista.demo") / "weights" / source.removeprefix(PACKAGED)
        if not folder.is_dir():
            raise CheckpointError("This package ships no such base.", got=source, advice="Reinstall aista.")
        return Path(str(folder))
    for path in [Path(source).expanduser(), *([beside / source] if beside else [])]:
        if path.exists():
            return path.resolve()
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise CheckpointError("This base does not exist.", got=source, advice="Check the path.")
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (*no_answer(), HFValidationError) as error:
        raise CheckpointError(
            "This base is neither a path here nor a model that can be fetched from the hub.",
            got=source,
            advice="Run 'aista download', or give the path of a folder that holds it.",
        ) from error


def full_name(source: str) -> str:
    """Return ``aista:base`` for ``base``, unless a folder here is called so; any other name as it is."""
    return PACKAGED + source if source in SHORT_NAMES and not Path(source).exists() else source


def describe(source: str, *, revision: str | None = None) -> dict[str, Any]:
    """Return how a configuration names a base: its source (a local path made absolute) and revision."""
    path = locate(source, revision=revision)
    if source.startswith(PACKAGED):
        return {"source": source, "revision": None}
    is_here = Path(source).expanduser().exists()
    if path.parent.name == "snapshots" and not is_here:  # the hub's cache: <repository>/snapshots/<commit>
        return {"source": source, "revision": path.name}
    return {"source": str(path), "revision": None}


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Go through the tensors of a transformers folder, safetensors where there are any, else pickles.

    Raises:
        CheckpointError: There are no weights, or they are damaged or unsafe.
    """
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as content:
                    for name in content.keys():  # noqa: SIM118 (not a dictionary)
                        yield name, content.get_tensor(name)
            except SafetensorError as error:
                raise CheckpointError(
                    "This weight file is damaged or cut short.",
                    got=f"{file}: {error}",
                    advice="Download it again.",
                ) from error
        else:
            yield from read_pickle(file).items()


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, safetensors where there are any.

    Raises:
        CheckpointError: There are none, or files of an index are missing.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
        if (folder / name).is_file():
            return [folder / name]
    raise CheckpointError(
        "There are no weights here.", got=folder, expected="model.safetensors or pytorch_model.bin"
    )


def _shards(index: Path) -> list[Path]:
    """Return the files that an index of weights names."""
    folder = os.path.normpath(index.parent)
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("The index of the weights is damaged.", got=f"{index}: {error}") from None
    for shard in shards:  # by its name alone: links in the folder may lead out, as in the hub's cache
        if not Path(os.path.normpath(index.parent / shard)).is_relative_to(folder):
            raise CheckpointError(
                "The index of the weights names a file outside its folder.",
                got=f"{index}: {shard!r}",
                expected="names of files beside it",
            )
    if absent := [shard for shard in shards if not (index.parent / shard).is_file()]:
        raise CheckpointError(
            "Files of the weights are missing.",
            got=f"{len(absent)} of {len(shards)}: {', '.join(absent[:3])}",
            expected=f"all that {index} names",
            advice="The download was not finished: run it again.",
        )
    return [index.parent / shard for shard in shards]


def read_config(folder: Path, kind: type | None = None) -> PreTrainedConfig:
    """Read a base's ``config.json``.

    Raises:
        CheckpointError: There is none, or it describes another kind of model.
    """
    _refuse_other_formats(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise refusal("This folder holds no model that can be used here.", folder, error) from error
    if kind is not None and not isinstance(config, kind):
        raise CheckpointError(
            "This base is of another kind.",
            got=f"{folder} is a {config.model_type!r}",
            expected=kind.model_type,  # type: ignore[attr-defined]
        )
    return config


def text_config(path: Path) -> PreTrainedConfig:
    """Read the configuration of a backbone.

    Raises:
        CheckpointError: It also sees or hears (Gemma 3, Qwen2.5-VL): LoRA would be put into those parts too.
    """
    config = read_config(path)
    if (text := config.get_text_config()) is not config:
        raise CheckpointError(
            "This backbone is more than a language model.",
            got=f"{path} is a {config.model_type!r}, whose text part is a {text.model_type!r}",
            expected="a causal language model of text alone",
            advice="Save its text part as a model of its own: docs/guides/own-backbone.md has the lines.",
        )
    return text


def _refuse_other_formats(path: Path) -> None:
    """Say what to do with weights of llama.cpp, CTranslate2 or peft, which are no models of transformers.

    A folder is known by its files, or by its name where the hub's copy was fetched without them.
    """
    files = sorted(file.name for file in path.iterdir()) if path.is_dir() else [path.name]
    if any(name.startswith(("model.safetensors", "pytorch_model")) for name in files):
        return
    if "adapter_config.json" in files and "config.json" not in files:
        raise CheckpointError(
            "This is an adapter of peft, without the model that it changes.",
            got=path,
            expected="a transformers folder: config.json, model.safetensors, tokenizer.json",
            advice="Merge it once: PeftModel.from_pretrained(BASE_MODEL, FOLDER).merge_and_unload()"
            ".save_pretrained(NEW), and AutoProcessor.from_pretrained(BASE).save_pretrained(NEW).",
        )
    named = "/".join(path.parts[-3:]).lower()  # the hub's cache: <repository>/snapshots/<commit>
    gguf = next((name for name in files if name.endswith(".gguf")), None)
    if gguf or "gguf" in named:
        raise CheckpointError(
            "These are weights of llama.cpp (GGUF).",
            got=path,
            expected="a transformers folder: config.json, model.safetensors, tokenizer.json",
            advice="Name the model that they were converted from. Or convert the file once: pip install "
            f'gguf, then AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file="{gguf or "NAME.gguf"}")'
            ".save_pretrained(NEW), and AutoTokenizer in the same way; what quantisation lost stays lost.",
        )
    if "model.bin" in files or any(word in named for word in ("faster-whisper", "ctranslate2", "-ct2")):
        raise CheckpointError(
            "These are weights of CTranslate2 (faster-whisper).",
            got=path,
            expected="a transformers folder: config.json, model.safetensors, tokenizer.json",
            advice="Name the model that they were converted from, such as openai/whisper-base.",
        )


def refusal(
    what: str, source: str | os.PathLike, error: Exception, advice: str | None = None
) -> CheckpointError:
    """Return the error for what transformers would not load, without its advice to run a folder's code."""
    if "trust_remote_code" not in str(error):
        return CheckpointError(what, got=f"{source}: {error}", advice=advice)
    return CheckpointError(
        what,
        got=f"{source} needs program code that lies beside its weights",
        expected="a model that transformers itself knows: such code is never run here",
        advice="Choose another model, or one converted to a class of transformers.",
    )


def speech_config(path: Path) -> WhisperConfig:
    """Read the configuration of a Whisper-class model."""
    return read_config(path, WhisperConfig)  # type: ignore[return-value]


def audio_config(path: Path) -> BeatsConfig:
    """Read the configuration of a BEATs file or folder."""
    return read_checkpoint(path)[0] if path.is_file() else read_config(path, BeatsConfig)  # type: ignore[return-value]


def _encoder_tensors(folder: Path) -> dict[str, Tensor]:
    """The encoder's part of a Whisper folder, whether it was saved alone or with its decoder."""
    found: dict[str, Tensor] = {}
    alone = True
    for name, tensor in tensors(folder):
        _, is_inside, inner = f".{name}".partition(".encoder.")
        alone = alone and not (is_inside or ".decoder." in f".{name}" or name == "proj_out.weight")
        if is_inside or alone:
            found[inner or name] = tensor
    return found


def load_speech_encoder(path: Path, dtype: torch.dtype, *, positions: int | None = None) -> WhisperEncoder:
    """Load the encoder of a Whisper-class model, and only that.

    Args:
        positions: Use only so many of its positions, the first (Whisper's are fixed sinusoids: those of a
            short input are the first ones of a long one). None: all.

    Raises:
        CheckpointError: The folder does not hold exactly one.
    """
    config = speech_config(path)
    with torch.device("meta"):
        encoder = WhisperEncoder(config)
    state = _encoder_tensors(path)
    require_match(f"the Whisper encoder in {path}", state, encoder.state_dict())
    if positions is not None and positions < config.max_source_positions:
        config.max_source_positions = positions
        with torch.device("meta"):
            encoder = WhisperEncoder(config)
        state["embed_positions.weight"] = state["embed_positions.weight"][:positions].clone()
    encoder.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    return encoder.eval()


def load_audio_encoder(path: Path) -> BeatsModel:
    """Load BEATs, always in float32, from a published file or from a folder of ours.

    Raises:
        CheckpointError: It does not hold exactly one.
    """
    if path.is_file():
        return BeatsModel.from_checkpoint(path)
    state = {name.removeprefix("beats."): tensor.float() for name, tensor in tensors(path)}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    return load_strictly(BeatsModel(audio_config(path)), state, f"BEATs in {path}")


def load_backbone(path: Path, dtype: torch.dtype, **options: Any) -> nn.Module:
    """Load any causal LM that transformers knows; code in the folder is never run.

    Args:
        options: Of ``from_pretrained``: ``device_map``, ``attn_implementation``, ``quantization_config``.

    Raises:
        CheckpointError: The folder holds no causal LM, or tensors of it are missing.
    """
    read_config(path)
    model = load_whole(AutoModelForCausalLM, path, "backbone", dtype=dtype, **options)
    # A base's sampling habits (temperature, repetition penalty) would otherwise leak into every translation.
    model.generation_config = GenerationConfig()
    return model


def load_whole(kind: Any, folder: Path, what: str, **options: Any) -> Any:
    """Load a model of transformers, every tensor of it; code beside its weights is never run.

    Args:
        kind: The Auto class, or class, that makes it.
        what: Its name in messages.
        options: Of ``from_pretrained``.

    Raises:
        CheckpointError: It is of another kind, or tensors are missing: it would run with random ones.
    """
    try:
        loaded = kind.from_pretrained(folder, output_loading_info=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise refusal(f"This {what} cannot be loaded.", folder, error) from error
    model, report = loaded
    if absent := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise CheckpointError(
            f"Tensors of this {what} are missing or misshapen: it would run with random ones.",
            got=f"{folder}: {', '.join(absent[:3])} and {len(absent[3:])} more",
        )
    if (head := model.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(_contiguous)
    return model


def _contiguous(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy what the output layer is given.

    While an answer begins it is the last state of each row, a view. Torch's product of a view on a CPU copies
    the matrix for every row: a minute and 10 GB for a batch in bfloat16.
    """
    return tuple(each.contiguous() for each in given)


def load_tokenizer(path: Path) -> Any:
    """Load a backbone's tokenizer.

    Raises:
        CheckpointError: The folder holds none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise refusal("This folder holds no tokenizer that can be read.", path, error) from error
    check_tokenizer(tokenizer, str(path))
    return tokenizer


def check_tokenizer(tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer without words: transformers makes an empty one where the files are missing.

    Raises:
        CheckpointError: It turns text into nothing, or into unknown tokens alone.
    """
    ids = tokenizer("a text, 文", add_special_tokens=False)["input_ids"]
    if not set(ids) - {tokenizer.unk_token_id}:
        raise CheckpointError(
            "This folder holds no tokenizer.",
            got=f"{source}: a tokenizer that turns every text into nothing",
            expected="tokenizer.json (or vocab.json and merges.txt, or tokenizer.model) beside the weights",
            advice="Download the whole repository: a pattern such as *.safetensors leaves the tokenizer out.",
        )


def load_feature_extractor(path: Path) -> WhisperFeatureExtractor:
    """Load a Whisper-class model's feature extractor, or make the one that its configuration implies.

    Raises:
        CheckpointError: It makes another number of mel bins than the encoder takes.
    """
    bins = speech_config(path).num_mel_bins
    if not (path / "preprocessor_config.json").is_file():
        return WhisperFeatureExtractor(feature_size=bins)
    extractor = WhisperFeatureExtractor.from_pretrained(path)
    if extractor.feature_size != bins:
        raise CheckpointError(
            "The feature extractor and the speech encoder do not belong together.",
            got=f"{extractor.feature_size} mel bins in {path / 'preprocessor_config.json'}",
            expected=f"{bins}, as its config.json says",
            advice="Take both files from one download.",
        )
    return extractor


def used_tensors(role: str, path: Path) -> Iterable[tuple[str, Tensor]]:
    """Go through what is used of a base, whatever file it lies in.

    Args:
        role: One of ``ROLES``. Of a Whisper-class model only the encoder counts, of BEATs not the head.
        path: As ``locate`` returns it.
    """
    if role == "speech_encoder":
        return _encoder_tensors(path).items()
    if role == "audio_encoder":
        return load_audio_encoder(path).state_dict().items()
    return tensors(path)


def identify(role: str, path: Path) -> str:
    """Fingerprint a base by what is used of it."""
    return fingerprint(used_tensors(role, path))
