"""Where the processes of a run meet: at a socket of the first one's, to which each of the others keeps a line open.

Over it the first one says where the group forms, and another one why it failed. A line that is cut without a word is an
end, and either side notices it at once. Between nodes, a file that all of them see says where the socket is.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.records.record import write_text
from harness.records.specs import LaunchSpec, Rung

FILE = "HARNESS_MEETING"  # environment of the first process of a run on several nodes: that file
COME_SECONDS = 600.0  # for the others to import what they need, on a file server that all of them ask
_HELLO_SECONDS = 10.0
_LOOK_SECONDS = 0.5
_LONGEST_BYTES = 2**16  # of what is said at once
_HERE = "127.0.0.1"


@dataclass(frozen=True)
class Attempt:
    """What further nodes must know of an attempt: of which recipe it is, and how it computes."""

    recipe_id: str = ""
    rung: Rung | None = None


@dataclass(frozen=True)
class Invitation:
    """Where the processes of one attempt meet. The token tells it from any other."""

    address: str
    port: int
    token: str
    attempt: Attempt


@dataclass(frozen=True)
class Node:
    """A further node: which one, the first being 0, what the cluster calls it, and why it cannot take part if so."""

    index: int
    name: str
    refusal: str = ""


_INVITATION: TypeAdapter[Invitation | None] = TypeAdapter(Invitation | None)


class Line:
    """One end of a line, for JSON both ways. No end of it may be open in a process that is no party to it."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(True)
        self.connection = Connection(connected.detach())
        self.node, self.refusal = "", ""  # of the other end

    def say(self, **said: Any) -> None:
        """Hand over one message; who is gone does not hear it."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(json.dumps(said).encode())

    def hear(self, seconds: float | None = None) -> dict[str, Any] | None:
        """What the other end says next; None if it is cut, or says nothing for so long."""
        with contextlib.suppress(EOFError, OSError, ValueError):
            if self.connection.poll(seconds):
                said = json.loads(self.connection.recv_bytes(_LONGEST_BYTES))
                return said if isinstance(said, dict) else None
        return None

    def close(self) -> None:
        """Cut it."""
        self.connection.close()


class Meeting:
    """The first one's side. Its door is open from the beginning: nobody comes too early."""

    def __init__(self, launch: LaunchSpec, attempt: Attempt) -> None:
        self._launch = launch
        self._door = self.open_port()
        self._door.settimeout(_LOOK_SECONDS)
        address = _HERE if launch.num_nodes == 1 else socket.gethostname()
        self.invitation = Invitation(address, self._door.getsockname()[1], secrets.token_hex(8), attempt)
        self.lines: dict[int, Line] = {}

    def open_port(self) -> socket.socket:
        """A port that the others reach, and no other machine where all of them are on this one."""
        return socket.create_server((_HERE if self._launch.num_nodes == 1 else "", 0))

    def gather(self, look: Callable[[], None]) -> None:
        """Wait until all the others are here; `look` is called meanwhile, and at last, and raises what keeps one away.

        Raises:
            TimeoutError: names those that have not come.
        """
        number, until = self._launch.num_processes, time.monotonic() + COME_SECONDS
        while missing := sorted(set(range(1, number)) - self.lines.keys()):
            look()
            if time.monotonic() > until:
                raise TimeoutError(f"process {', '.join(map(str, missing))} of {number} did not come")
            with contextlib.suppress(TimeoutError):
                self._admit(Line(self._door.accept()[0]), missing)
        look()

    def _admit(self, line: Line, missing: list[int]) -> None:
        said = line.hear(_HELLO_SECONDS) or {}
        if said.get("token") == self.invitation.token and said.get("rank") in missing:
            line.node, line.refusal = str(said["node"]), str(said["refusal"])
            self.lines[said["rank"]] = line
        else:
            line.close()

    def last_words(self, seconds: float) -> tuple[int, dict[str, Any] | None] | None:
        """The process that ended by itself and what it said, None if nothing; None if there is no such process.

        One that has lost another says so, and is not meant: of that other one may be heard a moment later.
        """
        until, heard = time.monotonic() + seconds, dict[int, dict[str, Any] | None]()
        while True:
            open_lines = {line.connection: (rank, line) for rank, line in self.lines.items() if rank not in heard}
            ready: list[Any] = wait(list(open_lines), max(0.0, until - time.monotonic()))
            heard |= {rank: line.hear() for rank, line in (open_lines[one] for one in ready)}
            ends = [(rank, said) for rank, said in heard.items() if said is None or said["kind"] != "lost"]
            if ends or not ready:
                return min(ends, key=lambda end: end[1] is None, default=None)

    def end(self) -> None:
        """Cut every line: who has not ended yet does so now."""
        self._door.close()
        for line in self.lines.values():
            line.close()


def come(invitation: Invitation, rank: int, node: Node | None) -> Line:
    """Another one's side; `node` is None on the first one's.

    Raises:
        OSError: nobody is there any more.
    """
    line = Line(socket.create_connection((invitation.address, invitation.port), timeout=COME_SECONDS))
    line.say(token=invitation.token, rank=rank, node=node.name if node else "", refusal=node.refusal if node else "")
    return line


def announce(invitation: Invitation | None, file: Path) -> None:
    """Tell the other nodes where the next attempt meets; None: there is none to come."""
    write_text(json.dumps(invitation and asdict(invitation)), file)


def invitations(file: Path) -> Iterator[Invitation]:
    """Each of the first node's attempts once, as they begin, until it says that there is none to come."""
    token = ""
    while True:
        with contextlib.suppress(OSError):  # not there yet, or replaced while a file server hands it out
            found = _INVITATION.validate_json(file.read_bytes())
            if found is None:
                return
            if found.token != token:
                token = found.token
                yield found
        time.sleep(_LOOK_SECONDS)
