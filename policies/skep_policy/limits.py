"""Every bound of the policy engine, in one place.

Owns the numbers that keep a policy from hurting its router: how large a module may be, what one evaluation may take
of time and memory, how long texts may be that go to built-ins in Python. Other bounds of policies stand where they
are used."""

from __future__ import annotations

from typing import Final

# Modules ----------------------------------------------------------------------------------------------------------

WASM_BYTES_MAX: Final = 4 << 20
"""A module. OPA's own runtime inside it is 0.13 MiB, or 0.6 MiB with regular expressions."""

ENTRYPOINTS_MAX: Final = 1024
"""Entry points and built-ins that one module may name."""

MODULES_KEPT: Final = 4
"""Compiled modules that a process keeps: the policy in force, the one before it, a shadow, the next. Each is a MiB or
two."""

VET_S_MAX: Final = 10.0
"""What compiling an unknown module in a child may take."""

VET_BYTES_MAX: Final = 512 << 20
"""Writable memory of that child."""

# Evaluations ------------------------------------------------------------------------------------------------------

FUEL_MAX: Final = 1_100_000
"""One evaluation. The default policy uses 0.1 M; an endless loop of the plainest kind ends after 1.2 ms."""

BUILTIN_FUEL: Final = 15_000
"""Price of one call into Python, about what it costs in time: or a policy that only calls out had no bound."""

BUILTIN_FUEL_PER_BYTE: Final = 15
"""Price of each byte that goes to a built-in and comes back: parsing and writing JSON."""

BUILTIN_NS: Final = 200_000
"""What a call may take before its time is paid for, too."""

FUEL_PER_NS: Final = 1
"""Price of that time: WASM uses one or two units in a nanosecond."""

START_FUEL_MAX: Final = 50_000_000
"""A new instance: its start function, and reading the tables of entry points and built-ins."""

LOAD_FUEL_PER_BYTE: Final = 2_000
"""Data that are loaded or patched, per byte; an honest parser needs 100 to 200."""

INPUT_BYTES_MAX: Final = 131_072
"""Input of one evaluation: a frame's meta and two records are 2 KiB."""

RESULT_BYTES_MAX: Final = 4 << 20
"""Result of one evaluation; ten thousand names are 0.4 MiB."""

MEMORY_BYTES_MAX: Final = 64 << 20
"""All memory of one instance."""

MEMORY_SPARE_BYTES: Final = 16 << 20
"""What evaluations may always take beyond the data. So data of more than 48 MiB move the bound above: they are the
hive's own and no policy can make them grow."""

DATA_MEMORY_BYTES_MAX: Final = 512 << 20
"""Data in memory, whatever they are: 60,000 agents in full."""

STACK_BYTES_MAX: Final = 512 << 10
"""Stack of WASM. Rego has no recursion, so only deeply nested values need it."""

REBUILDS_MAX: Final = 4
"""Attempts to copy an instance beside running patches; then one is made in between."""

TIDY_PATCHES: Final = 8_000
"""Patches after which data are laid out anew: a thousand changed records, which cost a fifth more each by then."""

TIDY_BYTES_MIN: Final = 4 << 20
"""Data below this are never worth it: their free pieces are few."""

MISSED_MAX: Final = 20_000
"""Patches that may come while they are; more, and it was in vain."""

# Built-ins --------------------------------------------------------------------------------------------------------

PATTERN_BYTES_MAX: Final = 1024
"""A regular expression or glob."""

SUBJECT_BYTES_MAX: Final = 16_384
"""A text that is matched against one."""

BUILTIN_BYTES_MAX: Final = 1 << 20
"""Arguments, and result, of one built-in as JSON."""

NESTING_MAX: Final = 256
"""Arrays and objects inside one another, where Python reads or writes them."""
