"""The `opa` command: where it is, whether it is new enough, and one bounded run of it.

Only the control plane needs it; a router never runs it. A run gets a folder of its own, no environment of ours, a
limit on time, processor time, memory and output, and capabilities that know no built-in that speaks to a network. What
it says comes back as data; an `opa` that dies (it has its own bugs) is an error of ours and never a hang.

Looked for in this order: the file that SKEP_OPA names, PATH, `.cache/bin` of a checkout (where `tools/fetch.py` puts
it). The first that is new enough wins; where none is, the error names the first one found.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from skep.protocol.errors import PolicyError

PINNED: Final = "1.22.2"
"""The version that the default policy's WASM is built with; reproducible bytes are promised for it alone."""

OLDEST: Final = (1, 0, 0)
"""From here on `opa` reads today's Rego without a flag. The ABI of what it makes is checked by the host itself."""

UNKNOWN: Final = (0, 0, 0)

RUN_S_MAX: Final = 30.0
"""One run. A policy of 1 MiB compiles in a second or two; what takes longer is not a policy."""

MEMORY_BYTES_MAX: Final = 1 << 30
"""Writable memory of one run. Compiling the default policy takes 60 MiB."""

OUTPUT_BYTES_MAX: Final = 32 << 20
"""Any one file that a run writes: a syntax tree of a 1 MiB policy with locations is the largest."""

SAID_BYTES_MAX: Final = 1 << 20
"""Of what a run said on stderr, what is read: `opa check` puts its findings there."""

CAPABILITIES: Final = Path(__file__).with_name("capabilities.json")
REACHING_OUT: Final = frozenset({"http.send", "net.lookup_ip_addr", "opa.runtime"})
REGO_NAME: Final = "policy.rego"
"""The file's name inside the run's folder; it stands in the WASM, so it is always the same."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run said. `code` is its exit code."""

    code: int
    stdout: bytes
    stderr: str

    def document(self) -> Any:
        """stdout, or what it said instead, as JSON. Raises PolicyError OPA_FAILED when it is none."""
        try:
            return json.loads(self.stdout or self.stderr)
        except (ValueError, RecursionError) as problem:
            said = first_line(self.stderr) or str(problem)
            raise PolicyError("OPA_FAILED", f"opa exited with {self.code}: {said}") from None


def find_opa() -> Path | None:
    """An `opa` that is new enough, or None."""
    return next((path for path in _candidates() if version_of(path) >= OLDEST), None)


def need_opa() -> Path:
    """An `opa` that is new enough. Raises PolicyError OPA_MISSING, OPA_OLD."""
    found = find_opa()
    if found is not None:
        return found
    how = f"`python tools/fetch.py` in a checkout builds {PINNED}; or put opa on PATH, or name the file in SKEP_OPA"
    for path in _candidates():
        if version_of(path) == UNKNOWN:
            raise PolicyError("OPA_MISSING", f"{path} is no opa command; {how}")
        oldest = ".".join(map(str, OLDEST))
        raise PolicyError("OPA_OLD", f"{path} is {version_text(path)}, needed is {oldest} or newer; {how}")
    raise PolicyError("OPA_MISSING", f"the opa command is not here; {how}")


def version_of(path: Path) -> tuple[int, ...]:
    """Its version; UNKNOWN when it does not say one."""
    try:
        return _version(str(path), path.stat().st_mtime_ns)
    except OSError:
        return UNKNOWN


def version_text(path: Path) -> str:
    """Its version as text, such as "1.22.2"."""
    return ".".join(map(str, version_of(path)))


@lru_cache(maxsize=8)
def _version(path: str, _mtime_ns: int) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [path, "version"], capture_output=True, timeout=RUN_S_MAX, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    found = re.search(rb"^Version: v?(\d+)\.(\d+)\.(\d+)", done.stdout, re.MULTILINE)
    return tuple(map(int, found.groups())) if found else (0, 0, 0)


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("SKEP_OPA"):
        yield Path(named)  # who names a file wants that file and no other
        return
    if found := shutil.which("opa"):
        yield Path(found)
    checkout = Path(__file__).resolve().parents[2]
    built = checkout / ".cache" / "bin" / "opa"
    if (checkout / "pyproject.toml").is_file() and os.access(built, os.X_OK):
        yield built


def run(opa: Path, arguments: Sequence[str], folder: Path, *, seconds: float = RUN_S_MAX) -> Run:
    """Run `opa` in `folder`, bounded. Raises PolicyError OPA_FAILED, OPA_TIMEOUT.

    stdout and stderr go to files in `folder`, so that a limit on file size bounds them and nothing has to be read
    while it runs.
    """
    out, err = folder / ".stdout", folder / ".stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        try:
            child = subprocess.Popen(
                [str(opa), *arguments], cwd=folder, env=_environment(folder),
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        except OSError as problem:
            raise PolicyError("OPA_FAILED", f"{opa}: {problem.strerror or problem}") from None
        code = _waited(child, seconds)
    said = _head(err, SAID_BYTES_MAX).decode(errors="replace")
    if code < 0 or "\ngoroutine " in said:
        raise PolicyError("OPA_FAILED", f"opa {arguments[0]} died: {first_line(said) or f'signal {-code}'}")
    return Run(code, _head(out, OUTPUT_BYTES_MAX), said)


def _waited(child: subprocess.Popen[bytes], seconds: float) -> int:
    try:
        _limit(child.pid, seconds)
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        raise PolicyError("OPA_TIMEOUT", f"opa took longer than {seconds:.0f} s and was stopped") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _limit(pid: int, seconds: float) -> None:
    """Limits set from outside, at once: a hook between fork and exec is not safe in a process with threads."""
    limits = {
        resource.RLIMIT_DATA: MEMORY_BYTES_MAX,
        resource.RLIMIT_FSIZE: OUTPUT_BYTES_MAX,
        resource.RLIMIT_CPU: int(2 * seconds) + 1,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in limits.items():
        try:
            resource.prlimit(pid, which, (value, value))
        except ProcessLookupError:  # it has ended already
            return


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": "", "HOME": str(folder), "TMPDIR": str(folder), "GOMEMLIMIT": str(MEMORY_BYTES_MAX // 2),
        "GOTRACEBACK": "single",
    }  # fmt: skip


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def capabilities_file(folder: Path) -> list[str]:
    """Write the capabilities for one run into `folder`; the arguments that name them.

    They are those of our host. Built-ins that reach a network are taken out and no host may be spoken to, whatever
    the file says: the tests of a policy are run, and anybody may have written them.
    """
    document = json.loads(CAPABILITIES.read_bytes())
    document["builtins"] = [each for each in document["builtins"] if each["name"] not in REACHING_OUT]
    document["allow_net"] = []
    target = folder / "capabilities.json"
    target.write_text(json.dumps(document))
    return ["--capabilities", str(target)]
