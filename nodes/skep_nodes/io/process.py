"""What the processes of this package do alike: find the hive and their files, say where they listen, end well.

A node that listens writes `<hive>/run/<name>.json` {host, port, pid} once it serves, so that a tool finds a port the
system chose; it is removed when the node leaves. Secrets default to `<hive>/state/secrets/<name>.json`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from skep import Hive, SkepError, find_hive
from skep.runner import loop_factory
from skep_nodes.io.settings import SettingsError

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND = (
    1,
    2,
    3,
)  # the command's own codes, so that `skep up` reads them alike


def run_main(main: Callable[[], None]) -> int:
    """Runs a node's `main`; whatever a person can mend is one line on stderr and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        main()
    except SettingsError as error:
        return _say(error, EXIT_USAGE)
    except SkepError as error:
        return _say(error, EXIT_NOT_FOUND if "hive.yaml" in str(error) else EXIT_FAILED)
    except OSError as error:
        return _say(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return 130
    return 0


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Runs `main` to its end, or until SIGTERM cancels it (then 0)."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_until_signal(main))


async def _until_signal(main: Coroutine[Any, Any, int]) -> int:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return 0


def hive_of(root: Path | None) -> Hive:
    return find_hive(root)


def base_of(name: str) -> str:
    """A node's name without its hive: what its files are called."""
    return name.partition("@")[0]


def secrets_path(hive: Hive, name: str, configured: Path | None) -> Path:
    return configured or hive.state_dir / "secrets" / f"{base_of(name)}.json"


def store_path(hive: Hive, name: str) -> Path:
    return hive.state_dir / "channels" / f"{base_of(name)}.sqlite"


def announce_listening(hive: Hive, name: str, host: str, port: int) -> Path:
    """Writes where the node listens; the caller removes the file."""
    path = hive.root / "run" / f"{base_of(name)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"host": host, "port": port, "pid": os.getpid()}) + "\n", encoding="utf-8")
    fresh.rename(path)
    return path


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return code
