"""Runs ``aista`` under FSDP2 on the CPU: accelerate offers FSDP on accelerators alone, torch has it on gloo too.

What is replaced is accelerate's look at the hardware; its preparation of the model is the one GPUs get.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from aista.cli.main import main

_look = AcceleratorState.__init__


def _look_and_shard(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _look(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _look_and_shard  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
