"""A SLURM of one machine in a folder of its own: munged, slurmctld and slurmd, as Debian packages them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""The machine passes for one of 64 cores and eight GPUs, which exist in SLURM's books alone."""


def missing() -> list[str]:
    """Programs of SLURM that are not installed."""
    return [name for name in NEEDED if shutil.which(name, path=_PATH) is None]


class Cluster:
    """What runs, and how to ask it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of each job, and of each task of an array, that SLURM still knows."""
        listed = self.run("scontrol", "show", "job", "--oneliner")
        found = {}
        for line in listed.splitlines():
            facts = dict(re.findall(r"(\w+)=(\S*)", line))
            if "JobId" in facts:
                task = f"_{facts['ArrayTaskId']}" if "ArrayTaskId" in facts else ""
                found[facts.get("ArrayJobId", facts["JobId"]) + task] = facts["JobState"]
        return found

    def end(self) -> None:
        """End all jobs: those that listen to a signal in their own way, the others at once."""
        for signals in (["--batch", "--signal=TERM"], ["--full", "--signal=KILL"]):
            subprocess.run(
                ["scancel", *signals, "--user", str(os.getuid())], env=self.environment, check=False
            )
            deadline = time.monotonic() + 60.0
            while "RUNNING" in self.jobs().values() and time.monotonic() < deadline:
                time.sleep(0.5)

    def said(self) -> str:
        """The ends of the daemons' logs."""
        logs = (self.folder / name for name in ("slurmctld.log", "slurmd.log", "munged.log"))
        return "\n".join(log.read_text()[-3000:] for log in logs if log.exists())


@contextmanager
def cluster(folder: Path, **variables: str) -> Iterator[Cluster]:
    """Run the daemons during the block.

    Parameters
    ----------
    variables : what jobs find in their environment beside this process's
    """
    for name in ("spool", "state"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(
        host=host,
        user=subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip(),
        folder=folder,
        controller_port=_free_port(),
        node_port=_free_port(),
    )
    (folder / "slurm.conf").write_text(text)
    for number in range(8):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    environment = os.environ | {"PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")} | variables
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
    files |= {"seed-file": "munge.seed", "log-file": "munged.log"}
    munge = [f"--{option}={folder / name}" for option, name in files.items()]
    daemons = (
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    processes: list[subprocess.Popen[bytes]] = []
    running = Cluster(folder, environment)
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("wb") as out:
                processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                _until((folder / "munge.socket").exists, running)
        _until(lambda: _is_up(running, host), running)
        yield running
    finally:
        if len(processes) == len(daemons):
            running.end()
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def _is_up(running: Cluster, host: str) -> bool:
    asked = subprocess.run(
        ["sinfo", "--noheader", "--format=%T", "--nodes", host],
        env=running.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() == "idle"


def _until(happened: Callable[[], bool], running: Cluster) -> None:
    deadline = time.monotonic() + 120.0
    while not happened():
        assert time.monotonic() < deadline, running.said()
        time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
