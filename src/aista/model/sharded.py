"""Tensors that an engine has spread over processes: whole again to be saved, spread again to be loaded.

FSDP2 holds parameters as DTensors; DeepSpeed's ZeRO-3 leaves an empty tensor that knows where its parts are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


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


def set_whole(tensor: Tensor, value: Tensor) -> None:
    """Set a tensor, spread by FSDP2 or not, to a full value that every process holds."""
    if isinstance(tensor, DTensor):
        tensor.copy_(distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements))
    else:
        tensor.copy_(value)
