"""Starting the command line under torchrun or accelerate, on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def torchrun(*arguments: str, module: str = "aista", processes: int = 2) -> list[str]:
    """The command that runs a module in some processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return [*launcher, f"--master-port={free_port()}", "-m", module, *arguments]


def run(command: list[str], extra: dict[str, str], timeout: float = 280) -> str:
    """Run to the end and return what it said."""
    started = subprocess.Popen(
        command, env=environment() | extra, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        said, _ = started.communicate()
        raise AssertionError(f"no end after {timeout} s:\n{said[-4000:]}") from None
    assert started.returncode == 0, said[-6000:]
    return said


def launcher_environment(engine: str) -> dict[str, str]:
    """What ``accelerate launch`` tells its processes when it reads the file of an engine."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    from aista.cli.machine import engine_files

    command = ["--config_file", str(engine_files(engine)[0]), "--num_processes", "2", "-m", "aista", "joint"]
    with (
        mock.patch.object(launch, "deepspeed_launcher") as by_deepspeed,
        mock.patch.object(launch, "multi_gpu_launcher") as by_torch,
    ):
        launch.launch_command(launch.launch_command_parser().parse_args(command))
    if by_deepspeed.called:
        return prepare_deepspeed_cmd_env(by_deepspeed.call_args.args[0])[1]
    return prepare_multi_gpu_env(by_torch.call_args.args[0])
