"""Which process listens on a port of this host, and why a service on another host cannot be reached."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path


def listeners(port: int) -> list[tuple[int, str]]:
    """Return (pid, command line) of the processes that listen on a TCP port; pid 0 if it is unknown."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return []
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(handle.readlink()) in inodes for handle in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append((int(process.name), command))
    return found or [(0, "a process of another user")]


def taken(ports: Mapping[str, int], *, program_dir: str) -> list[str]:
    """Return an error, by variable, for each port in use by a process that does not belong to this installation.

    A process belongs to it if its program, or a file on its command line, is below `program_dir`.
    """
    prefixes = tuple(f"{directory}/" for directory in (program_dir, os.path.realpath(program_dir)))
    return held(ports, but=lambda command: any(word.startswith(prefixes) for word in command.split()))


def held(ports: Mapping[str, int], *, but: Callable[[str], bool]) -> list[str]:
    """Return an error, by variable, for each port in use by a process whose command line `but` does not accept."""
    found = []
    for variable, port in ports.items():
        for pid, command in listeners(int(port)):
            if not but(command):
                holder = f"{command} (pid {pid})" if pid else command
                found.append(f"{variable}: port {port} is in use by {holder}; stop it or choose another port")
    return found


def unreachable(error: Exception, *, variable: str, host: str, port: int, service: str, silent: str) -> str:
    """Return an error, by variable, about an unreachable service.

    `silent` is the question to ask if the service does not answer in time.
    """
    where = f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return f"{variable}: this host cannot resolve {host}: {error.strerror}"
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return f"{variable}: nothing listens at {where}; start {service} there, or correct the host or the port"
    if isinstance(error, TimeoutError):
        return f"{variable}: {where} does not answer; {silent}"
    return f"{variable}: {where} cannot be reached: {error}"
