"""Every bound of identity, with its reason. Past one, a request is refused with a code; nothing is cut in silence."""

from __future__ import annotations

from typing import Final

NAME_CHARS_MAX: Final = 128
DOMAIN_CHARS_MAX: Final = 128
EMAIL_CHARS_MAX: Final = 256
KIND_CHARS_MAX: Final = 32
ADDRESS_CHARS_MAX: Final = 256
NODE_NAME_CHARS_MAX: Final = 256
REASON_CHARS_MAX: Final = 512
DESCRIPTION_CHARS_MAX: Final = 512
"""As upstream has them; texts for people are half a page."""

OBJECT_BYTES_MAX: Final = 8192
"""`identification` and `settings` as JSON: a form of some dozen fields, far below what a frame holds."""

TAG_CHARS_MAX: Final = 64
TAGS_MAX: Final = 48
"""Roles, and the same of capabilities: together with a handler and a degree they fit the region's text of 8 KiB."""

CHANNELS_PER_ILK_MAX: Final = 64
"""Nobody has more addresses; a list of all fits an answer."""

TENANTS_MAX: Final = 10_000
VOCABULARY_MAX: Final = 4096
"""Kept in memory as a whole."""

ILKS_MAX: Final = 4_000_000
"""Four times what one host was measured with; `max_ilks` of a tenant's settings is the bound that matters."""

ALIASES_PER_ILK_MAX: Final = 256
"""Merges into one interlocutor: their history is one answer."""

ALIAS_TTL_S: Final = 3600
ALIAS_TTL_S_MAX: Final = 366 * 86400
"""How long messages that name the old ILK still arrive: an hour outlives every message in flight."""

LIST_MAX: Final = 100
LIST_BYTES_MAX: Final = 48 << 10
"""Interlocutors in one answer, and the bytes after which it ends earlier: it must fit a frame of 64 KiB."""

GROUP_MAX: Final = 256
"""Requests in one transaction: 5-10 ms of work, and the memory of their rows."""

WAITING_MAX: Final = 8192
"""Requests that wait for a transaction; past it the answer is BUSY."""

DUE_MAX: Final = 512
"""Expiries in one transaction; what remains follows in the next."""
