"""The nursery itself: `python -m skep_nodes.cli.nursery_process DESCRIPTOR MODULE… PADDING`.

It imports the modules it was given, one between two questions, and forks whoever it is asked for. At a birth a middle
process forks the child and ends; so the child is an orphan, and the kernel gives it to `skep up`. Only after we have
waited for the middle one is the child told to go on: from then on its parent is the right one, and it can ask to die
with it. It reports when it has a session, its folder and its descriptors, or why not; and runs its module.

What a fork must not share: there is no thread, no loop and no open file here besides the socket, `random` seeds
itself anew, and what keys are made of comes from the kernel. Our objects are frozen before each fork, so that no
collection touches, and thereby copies, the memory that all share. All children have one seed of string hashes.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
from collections.abc import Sequence
from typing import Any

from skep_nodes.cli.nursery import QUESTION_BYTES_MAX, TICKET_FD, Birth
from skep_nodes.cli.prctl import die_with_parent, show_as

OURS = ("skep_nodes.", "skep_router")
GO = b"go"
LOW = 32  # descriptors below are ours to arrange; no more than a few are open


class Server:
    """Answers until the socket is closed; returns in each child with what it shall be."""

    def __init__(self, asked: socket.socket, warm: Sequence[str]) -> None:
        self._asked, self._warm = asked, list(warm)
        self._up = os.getppid()

    def serve(self) -> Birth | None:
        """None: nobody can ask any longer."""
        while True:
            if self._warm and not select.select([self._asked], [], [], 0)[0]:
                import_module(self._warm.pop(0))
                continue
            question, descriptors, _, _ = socket.recv_fds(self._asked, QUESTION_BYTES_MAX, 2)
            if not question:
                return None
            birth = Birth(**json.loads(question))
            answer = self._answer(birth, descriptors)
            if answer is None:
                return birth
            for descriptor in descriptors:
                os.close(descriptor)
            self._asked.send(json.dumps(answer).encode())

    def _answer(self, birth: Birth, descriptors: list[int]) -> dict[str, Any] | None:
        """None in the child."""
        for module in () if birth.fresh else own(birth.argv):
            import_module(module)
        try:
            return self._bear(birth, descriptors)
        except OSError as error:
            return refusal(error)

    def _bear(self, birth: Birth, descriptors: list[int]) -> dict[str, Any] | None:
        gc.freeze()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        middle = os.fork()
        if middle == 0:
            here.close()
            if not _is_child():
                os._exit(0)
            self._asked.close()
            _settle(birth, descriptors, there, self._up)
            return None
        there.close()
        with here:
            os.waitpid(middle, 0)
            with contextlib.suppress(ConnectionError):
                here.send(GO)
            return _report(here)


def refusal(error: OSError) -> dict[str, Any]:
    """Why there is no child."""
    return {"error": error.strerror or str(error), "number": error.errno}


def _is_child() -> bool:
    """The second fork, in the middle process; where it fails, nobody will report."""
    try:
        return os.fork() == 0
    except OSError:
        return False


def _report(child: socket.socket) -> dict[str, Any]:
    """The child's pid, or why there is none. A fresh interpreter closes the socket by being there."""
    report: dict[str, Any] = {"error": "the process ended before it began", "number": None}
    while data := child.recv(4096):
        report = json.loads(data)
    return report


def _settle(birth: Birth, descriptors: list[int], told: socket.socket, up: int) -> None:
    """Become what the child shall be, but for its module. Does not return when something is in the way."""
    try:
        if told.recv(len(GO)) != GO:
            os._exit(1)
        die_with_parent()
        if os.getppid() != up:  # it died meanwhile, so nobody would tell us
            os._exit(1)
        os.setsid()
        told = _arrange(descriptors, told)
        os.chdir(birth.folder)
        os.environ.update(birth.env)
        told.send(json.dumps({"pid": os.getpid()}).encode())
        if birth.fresh:
            os.execvp(birth.argv[0], birth.argv)  # noqa: S606  the command of hive.yaml, without a shell
    except OSError as error:
        told.send(json.dumps(refusal(error)).encode())
        os._exit(1)
    show_as(birth.name, birth.argv)
    told.close()


def _arrange(descriptors: list[int], told: socket.socket) -> socket.socket:
    """Standard output is the log, the ticket stands where the child looks for it; all else but `told` is closed."""
    high = _above(told.detach())
    log, *ticket = [_above(descriptor) for descriptor in descriptors]
    for number in (1, 2):
        os.dup2(log, number)
    if ticket:
        os.dup2(ticket[0], TICKET_FD)
    for number in range(TICKET_FD + len(ticket), 2 * LOW):
        if number != high:
            with contextlib.suppress(OSError):
                os.close(number)
    return socket.socket(fileno=high)


def _above(descriptor: int) -> int:
    """The same where nothing else is in the way; a program that is executed does not get it."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LOW)


def import_module(name: str) -> None:
    """Import it with what it needs. One that cannot be imported says so when it is run, in its own log."""
    with contextlib.suppress(Exception):
        importlib.import_module(name)


def own(argv: Sequence[str]) -> list[str]:
    """The modules of ours that this command line of `children.python` runs: one, or `traced` and another."""
    names = [word for word in argv[3:5] if word.startswith(OURS)]
    return [f"{name}.__main__" if name == "skep_router" else name for name in names]


def run(argv: Sequence[str]) -> None:
    """Go on as `python -P -m MODULE ARGUMENTS`: the module runs anew, what it imports is there."""
    for name in own(argv):
        sys.modules.pop(name, None)
    sys.argv = list(argv[3:])
    runpy.run_module(argv[3], run_name="__main__", alter_sys=True)


def main() -> None:
    """Serve; in a child, run what it was born for."""
    gc.disable()
    show_as("skep-nursery", [*sys.orig_argv[:4]])
    birth = Server(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:-1]).serve()
    if birth is not None:
        gc.enable()
        run(birth.argv)


if __name__ == "__main__":
    main()
