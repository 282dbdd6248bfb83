"""Speech LLMs that live in transformers: loaded strictly, asked in batches, read up to any of their ends."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError

from aista.errors import CheckpointError
from aista.inference.answering import Answer, GenerationSettings, read_answer
from aista.model.bases import check_tokenizer, locate, refusal
from aista.model.loading import default_dtype

_SAMPLING = ("temperature", "top_p", "top_k", "typical_p", "min_p")


def load_model(kind: Any, source: str, revision: str | None, dtype: str | None, device: torch.device) -> Any:
    """Load a model of transformers; code in the repository is never run.

    Args:
        kind: A model class or an Auto class.
        source: Folder or hub id.
        revision: Commit, for a hub id.
        dtype: E.g. ``bfloat16``; by default that on a GPU, else float32.
        device: Where to.

    Raises:
        CheckpointError: It is nowhere, of another kind, or tensors are missing.
    """
    folder = locate(source, revision=revision)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype) if dtype else default_dtype()}
    try:
        loaded = kind.from_pretrained(folder, output_loading_info=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise refusal("This speech LLM cannot be loaded.", source, error) from error
    model, report = loaded
    absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if absent:
        raise CheckpointError(
            "Tensors of this speech LLM are missing or misshapen: it would run with random ones.",
            got=f"{source}: {', '.join(absent[:3])} and {len(absent[3:])} more",
        )
    for name in _SAMPLING:  # nothing is sampled here; what a repository says about it would only warn
        if hasattr(model.generation_config, name):
            setattr(model.generation_config, name, None)
    return model.to(device).eval()


def load_processor(kind: Any, source: str, revision: str | None) -> Any:
    """Load a processor of transformers.

    Raises:
        CheckpointError: There is none, its tokenizer is missing, or it needs a package that is not installed.
    """
    try:
        processor = kind.from_pretrained(locate(source, revision=revision), trust_remote_code=False)
    except ImportError as error:
        raise CheckpointError(
            "This processor needs a package that is not installed.",
            got=str(error).strip().splitlines()[0],
            advice="Install it into an environment of its own; aista itself does without.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise refusal("This processor cannot be loaded.", source, error) from error
    check_tokenizer(getattr(processor, "tokenizer", processor), source)
    return processor


@torch.no_grad()
def ask(model: Any, tokenizer: Any, inputs: Any, generation: GenerationSettings) -> list[Answer]:
    """Answer a batch that is padded on the left.

    Args:
        model: With ``generate``.
        tokenizer: To read the answers with.
        inputs: A ``BatchFeature`` with ``input_ids`` (B, T).
        generation: How to search.
    """
    inputs = inputs.to(device=model.device, dtype=model.dtype)
    ends = _ends(model, tokenizer)
    options = generation.model_dump(exclude={"batch_size"})
    if tokenizer.pad_token_id is not None:
        options["pad_token_id"] = tokenizer.pad_token_id
    new = model.generate(**inputs, do_sample=False, eos_token_id=sorted(ends), **options)
    answers = []
    for row in new[:, inputs["input_ids"].shape[1] :].tolist():
        end = next((token for token in row if token in ends), min(ends))
        answers.append(read_answer(row, tokenizer, end, generation.max_new_tokens))
    return answers


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Return every token that ends an answer.

    Raises:
        CheckpointError: Nothing says which.
    """
    named = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    ends = {
        int(token) for entry in named for token in (entry if isinstance(entry, list) else [entry]) if token
    }
    if not ends:
        raise CheckpointError("Nothing says which token ends an answer of this model.")
    return ends
