"""The nursery, as `skep up` sees it: a process that has imported what children need, and forks one for each.

Nine processes that import the same modules cost nine times the second that one needs, and hold nine copies of them. So
one process imports (`nursery_process`), and a child is a fork of it that goes on as `python -m MODULE` would. It is
not the child's parent: it forks twice, and the orphan becomes ours (PR_SET_CHILD_SUBREAPER). So we wait for it,
signal it and take it with us as if we had started it ourselves, and nothing depends on the nursery's life: one that is
killed takes no child along, and the next birth starts another.

It is asked over a socket, one question at a time: a JSON object, and as descriptors the child's log and, for a system
node or router, the pipe with its ticket, which the nursery hands on unread. It has no threads, no event loop and no
secret; it ends when the socket is closed, and with us.

Rejected: forking from `skep up` itself (every child would be born with all tickets in its memory);
`multiprocessing.forkserver` (it stays the parent, runs functions instead of modules, and keeps a pipe for each child).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType

from skep_nodes.cli.prctl import die_with_parent, take_orphans

ANSWER_S = 20.0  # imports of a loaded machine; a nursery that is silent for longer is ended
QUESTION_BYTES_MAX = 160 << 10  # below what a socket takes at once; execve(2) has a bound of that size, too
TICKET_FD = 3  # where a child finds its ticket
TITLE_BYTES = 1024  # room for the command line of a child
STRANGERS_MAX = 64  # orphans that are reaped in one turn


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child shall be. `env` is what differs from ours. `fresh`: with an interpreter that imports for itself."""

    name: str
    argv: list[str]
    env: dict[str, str]
    folder: str
    fresh: bool = False


class Process:
    """A process that is ours to wait for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """How it ended: its exit code, or the number of the signal below zero; None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else waited for it
                self._code = 1
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


class Nursery:
    """Starts the process as soon as it is made, and again whenever it is needed and gone."""

    def __init__(self, warm: Sequence[str] = ()) -> None:
        self._warm = list(warm)
        self._process: subprocess.Popen[bytes] | None = None
        self.began_s = time.monotonic()  # when `skep up` began, as far as a person can feel it
        take_orphans(ours=True)
        self._begin()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        take_orphans(ours=False)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def bear(self, birth: Birth, descriptors: Sequence[int]) -> Process:
        """Start a child. Its log comes first among the descriptors, then its ticket. Raises OSError."""
        question = json.dumps(asdict(birth)).encode()
        if len(question) > QUESTION_BYTES_MAX:
            raise OSError(f"arguments and environment of {birth.name} have {len(question)} bytes")
        try:
            return self._ask(question, descriptors)
        except (ConnectionError, TimeoutError, EOFError):  # it died or hangs: another one, once
            self.close()
            self._begin()
            return self._ask(question, descriptors)

    def _ask(self, question: bytes, descriptors: Sequence[int]) -> Process:
        socket.send_fds(self._socket, [question], list(descriptors))
        data = self._socket.recv(4096)
        if not data:
            raise EOFError("the nursery ended")
        answer = json.loads(data)
        if "error" in answer:
            raise OSError(answer["number"], answer["error"])
        return Process(answer["pid"])

    def _begin(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_S)
        with its:
            self._process = subprocess.Popen(
                [*_command(), str(its.fileno()), *self._warm, "-" * TITLE_BYTES], env=_environment(),
                stdin=subprocess.DEVNULL, pass_fds=[its.fileno()], start_new_session=True,
                preexec_fn=die_with_parent,
            )  # fmt: skip
        self._socket = ours

    def reap_strangers(self, ours: set[int]) -> None:
        """Wait for orphans that nobody here knows: what a child of ours had started and left behind."""
        if self._process is not None:
            self._process.poll()
        for _ in range(STRANGERS_MAX):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours or found.si_pid == self.pid:
                return
            os.waitpid(found.si_pid, 0)

    def close(self) -> None:
        """End the process; children live on."""
        self._socket.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)  # it has nothing to save, and may be stopped or importing
            self._process.wait()
            self._process = None


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", "skep_nodes.cli.nursery_process"]


def _environment() -> Mapping[str, str]:
    """Ours, less what was meant for us alone. Children have another working folder, so paths become absolute."""
    env = {
        name: value for name, value in os.environ.items() if name not in ("SKEP_TICKET_FD", "NOTIFY_SOCKET")
    }
    paths = list(filter(None, env.get("PYTHONPATH", "").split(os.pathsep)))
    if paths:
        env["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths)
    return env | {"PYTHONUNBUFFERED": "1"}
