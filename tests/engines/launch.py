"""Starting the command line under torchrun or accelerate, on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def torchrun(*arguments: str, processes: int = 2) -> list[str]:
    """The command that runs ``aista ARGUMENTS`` in some processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return [*launcher, f"--master-port={free_port()}", "-m", "aista", *arguments]


def run(command: list[str], expect: int = 0, timeout: float = 120) -> str:
    """Run to the end and return what it said."""
    started = subprocess.Popen(
        command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        said, _ = started.communicate()
        raise AssertionError(f"no end after {timeout} s:\n{said[-4000:]}") from None
    assert started.returncode == expect, said[-6000:]
    return said
