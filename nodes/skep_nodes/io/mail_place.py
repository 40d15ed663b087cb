"""Where a mail server is, and how safely it is spoken to.

A password and people's letters go over these connections, so they are encrypted and the server's certificate is
checked; plain text is for a server on this machine only. There is no setting that turns the check off: a server with a
certificate of its own is configured by `ca_file`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skep_nodes.io.settings import SettingsError

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
IMAP_SECURITY: Final = ("tls", "none")
SMTP_SECURITY: Final = ("tls", "starttls", "none")


@dataclass(frozen=True, slots=True)
class Place:
    """One server."""

    host: str
    port: int
    security: str = "tls"
    ca_file: Path | None = None
    """Certificates that are trusted instead of the system's."""

    def check(self, known: tuple[str, ...], where: str) -> None:
        """Raises SettingsError for a security that there is not, or that this host may not have."""
        if self.security not in known:
            raise SettingsError(f"{where}.security: must be one of {', '.join(known)}")
        if self.security == "none" and self.host not in LOOPBACK:
            raise SettingsError(
                f"{where}.security: none is for a server on this machine, not for {self.host}"
            )

    def tls(self) -> ssl.SSLContext:
        """Checks certificate and name. Raises OSError for a file that cannot be read."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(frozen=True, slots=True)
class Account:
    """How one logs in; an empty user does not."""

    user: str = ""
    password: str = ""
