"""The processes of one run: which of them writes, which wait, what all agree on.

A launcher (torchrun, accelerate launch) tells each process its place by environment variables; without one
there is a single process, and nothing here does anything. Messages travel over a gloo group of their own:
they do not touch the GPUs, and do not end after the minutes that NCCL allows: a process may wait for hours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from aista.errors import ConfigError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_PATIENCE, _ENGINE_PATIENCE = timedelta(days=7), timedelta(minutes=30)
_groups: list[Any] = []


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Return the number of this process, counted from 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def cores() -> int:
    """Return how many cores this process may use: what its affinity and its container leave it."""
    import joblib

    return joblib.cpu_count()


def is_main() -> bool:
    """Say whether this process is the one that writes and speaks."""
    return rank() == 0


def device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def device_named(name: str | None) -> torch.device:
    """Return a device by name; None: this process's own.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch

    if name is None:
        return device()
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise ConfigError(
            f"There is no device {name!r} here.",
            got=str(error).split("\n")[0],
            expected=", ".join(["cpu", *gpus]),
        ) from None
    if place.type == "meta":
        raise ConfigError(f"Nothing can be computed on the device {name!r}.", expected="cpu or cuda")
    return place


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks, to all of them."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value, group=_group())
    return values


def any_of(flag: bool) -> bool:
    """Say whether the flag is set in any process."""
    if count() == 1:
        return flag
    import torch
    import torch.distributed as dist

    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=_group())
    return bool(flags.item())


def wait() -> None:
    """Go on when every process has come here."""
    any_of(False)


def by_main(work: Callable[[], T]) -> T:
    """Let the main process do the work while the others wait; all return its result.

    Raises:
        SystemExit: In the others, where the work failed: the main process raises the error itself.
    """
    if count() == 1:
        return work()
    failure: BaseException | None = None
    outcome: tuple[bool, Any] = (False, None)
    if is_main():
        try:
            outcome = (True, work())
        except BaseException as error:
            failure = error
    done, value = gather(outcome)[0]
    if failure is not None:
        raise failure
    if not done:
        raise SystemExit(2)
    return value


def _group() -> Any:
    """Return the group of messages; every process joins it at the first one."""
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    if not _groups:
        # Starts torch's own group, on the backend of the devices.
        PartialState(cpu=not torch.cuda.is_available(), timeout=_ENGINE_PATIENCE)
        _groups.append(dist.new_group(backend="gloo", timeout=_PATIENCE))
    return _groups[0]
