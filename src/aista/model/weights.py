"""Reading weights without trusting them, telling what is wrong with them, and knowing them again.

Pickles are read with ``weights_only=True`` (no code of theirs ever runs), keys and shapes are compared in
both directions, and a fingerprint identifies tensors by content. Tensors that an engine has spread over
processes become whole again to be saved, and are spread again to be loaded: FSDP2 holds parameters as
DTensors; DeepSpeed's ZeRO-3 leaves an empty tensor that knows where its parts are."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from aista.errors import CheckpointError

T = TypeVar("T", bound=nn.Module)
# Tensors above this size are fingerprinted by evenly spaced samples of their bytes.
_WHOLE_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 32, 1 << 12
_MATRICES, _VALUES = 12, 16
# What torch's restricted unpickler says of a pickle that names a function or a class.
_CODE = re.compile(r"GLOBAL|[Uu]nsupported (global|class)|operand 14[79]\b|reduce|BUILD")


def read_pickle(path: str | Path) -> dict[str, Any]:
    """Read a ``.pt`` / ``.pth`` / ``.bin`` file of tensors and plain containers.

    Args:
        path: The file.

    Returns:
        The dictionary in it, its tensors on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, holds something other than a dictionary, or wants to
            run code while being read (which is refused: nothing of it runs).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("This weight file does not exist.", got=path, advice="Check the path.")
    with path.open("rb") as file:
        if file.read(1) == b"<":
            raise CheckpointError(
                "This is a web page, not weights.", got=path, advice="Its link has expired: 'aista download'."
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _CODE.search(str(error)):
            raise CheckpointError(
                "This file holds more than tensors and plain containers: loading it could run code. Refused.",
                got=path,
                advice="Get the weights from a source you trust, as tensors only.",
            ) from error
        raise CheckpointError(
            "This weight file is damaged.", got=path, advice="Download it again."
        ) from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            "This weight file is damaged or cut short.", got=f"{path}: {error}", advice="Download it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError("This weight file does not hold a dictionary.", got=type(content).__name__)
    return content


def require_match(
    what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, advice: str | None = None
) -> None:
    """Demand that two sets of tensors agree in every name and every shape.

    Args:
        what: Name of the weights, for the message.
        found: What a file holds.
        expected: What the model needs.
        advice: What to try, where the caller knows better than this function.

    Raises:
        CheckpointError: Names the first kind of trouble: renamed, missing, superfluous, transposed or
            otherwise misshapen tensors.
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing and len(missing) == len(extra):
        pairs = list(zip(extra, missing, strict=True))
        if all(found[old].shape == expected[new].shape for old, new in pairs):
            renamed = _few([f"{old} -> {new}" for old, new in pairs])
            raise CheckpointError(f"Keys of {what} seem to be renamed.", got=renamed, advice=advice)
    if missing:
        raise CheckpointError(f"Tensors of {what} are missing.", expected=_few(missing), advice=advice)
    if extra:
        raise CheckpointError(f"There are tensors that {what} does not know.", got=_few(extra), advice=advice)
    if wrong := [name for name in expected if found[name].shape != expected[name].shape]:
        permuted = all(sorted(found[name].shape) == sorted(expected[name].shape) for name in wrong)
        raise CheckpointError(
            f"Tensors of {what} have {'permuted dimensions' if permuted else 'another shape'}.",
            got=_few([f"{name} {tuple(found[name].shape)}" for name in wrong]),
            expected=_few([f"{tuple(expected[name].shape)}" for name in wrong]),
            advice=advice,
        )


def _few(rows: list[str], most: int = 6) -> str:
    return "; ".join(rows[:most]) + (f"; and {len(rows) - most} more" if len(rows) > most else "")


def fingerprint(tensors: Iterable[tuple[str, Tensor]], *, whole: bool = False) -> str:
    """Identify tensors by names, types, shapes and content.

    Args:
        tensors: Pairs of name and tensor, in any order.
        whole: Read every byte, also of large tensors.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.

    Departs: unless ``whole``, of a tensor over 1 MiB, 32 evenly spaced blocks of 4 KiB are read, so that
    identifying a 13 B model takes seconds. It tells models apart; it is no proof against someone who forges
    one.
    """
    digests = []
    for name, tensor in tensors:
        digest = hashlib.sha256(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        starts, count = [0], content.numel()
        if count > _WHOLE_BYTES and not whole:
            starts = [i * (count - _SAMPLE_BYTES) // (_SAMPLES - 1) for i in range(_SAMPLES)]
            count = _SAMPLE_BYTES
        for start in starts:
            digest.update(content[start : start + count].numpy().tobytes())
        digests.append(digest.digest())
    return "sha256:" + hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def likeness(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, list[float]]:
    """Return a few values of some matrices: they are known by them in another precision, too.

    Returns:
        Name -> 16 evenly spaced values, of 12 matrices evenly spaced among all by their names.
    """
    found = {name: _values(tensor) for name, tensor in tensors if tensor.ndim == 2}
    names = sorted(found)
    return {name: found[name] for name in names[:: -(-len(names) // _MATRICES)]}


def unlikeness(tensors: Iterable[tuple[str, Tensor]], expected: Mapping[str, list[float]]) -> float:
    """Return how far values are from those of ``likeness``: the mean over its matrices of |a - b| / |b|.

    The same weights in float16 have some 0.0003, in five bits 0.04, unrelated ones 1.4. A matrix that is not
    there counts as infinitely far.
    """
    found = {name: _values(tensor) for name, tensor in tensors if name in expected}
    if expected.keys() - found.keys():
        return float("inf")
    far = [np.subtract(found[name], row) for name, row in expected.items()]
    sizes = [np.linalg.norm(row) for row in expected.values()]
    return float(np.mean([np.linalg.norm(row) / size for row, size in zip(far, sizes, strict=True)]))


def _values(tensor: Tensor) -> list[float]:
    flat = tensor.detach().reshape(-1)
    places = [i * (len(flat) - 1) // (_VALUES - 1) for i in range(_VALUES)]
    return [float(f"{value:.5g}") for value in flat[places].float().tolist()]


def settle(module: nn.Module) -> None:
    """Let the parameters be the spread ones again: a validation leaves FSDP2's root with gathered copies."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor's full value, detached. Every process has to ask for it, in the same order."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor().detach()
    if hasattr(tensor, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach()


@torch.no_grad()
def set_strictly(what: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Set tensors by name to full values, all of them or none.

    Raises:
        CheckpointError: Names or shapes differ in either direction.
    """
    require_match(what, state, own)
    for name, tensor in own.items():
        value = state[name]
        if isinstance(tensor, DTensor):  # spread by FSDP2
            value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
        tensor.copy_(value)


def load_strictly(model: T, state: dict[str, Tensor], what: str) -> T:
    """Load a whole model's tensors, and return it in eval mode.

    Raises:
        CheckpointError: Names or shapes differ in either direction.
    """
    require_match(what, state, model.state_dict())
    model.load_state_dict(state)
    return model.eval()
