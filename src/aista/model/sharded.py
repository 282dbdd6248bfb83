"""Tensors that an engine has spread over processes: whole again to be saved, spread again to be loaded.

FSDP2 holds parameters as DTensors; DeepSpeed's ZeRO-3 leaves an empty tensor that knows where its parts are.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor's full value, detached. Every process has to ask for it, in the same order."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor().detach()
    if hasattr(tensor, "ds_id"):
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach()


def set_whole(tensor: Tensor, value: Tensor) -> None:
    """Set a tensor, spread by FSDP2 or not, to a full value that every process holds."""
    if isinstance(tensor, DTensor):
        tensor.copy_(distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements))
    else:
        tensor.copy_(value)
