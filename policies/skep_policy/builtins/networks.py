"""Address blocks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from skep_policy.builtins.values import (
    LimitError,
    Pairs,
    Set,
    UndefinedError,
    Value,
    a_collection,
    a_string,
    items,
    set_of,
)

ADDRESSES_MAX: Final = 4096
"""What one block may be expanded to."""

PAIRS_MAX: Final = 2_000
_CLASSES: Final = ((0x80, 8), (0xC0, 16), (0xE0, 24))
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(text: Value) -> Network:
    """A block, such as 10.0.0.0/8, whatever its host bits say."""
    address, slash, length = a_string(text).partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,3}", length) or "%" in address:
        raise UndefinedError("no address block")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UndefinedError(str(error)) from None


def is_valid(text: Value) -> bool:
    try:
        network(text)
    except UndefinedError:
        return False
    return True


def expand(text: Value) -> Set:
    block = network(text)
    if block.num_addresses > ADDRESSES_MAX:
        raise LimitError(f"more than {ADDRESSES_MAX} addresses")
    return set_of([str(address) for address in block])


def contains(block: Value, inner: Value) -> bool:
    """Does a block contain an address or block?"""
    outer = network(block)
    try:
        address = ipaddress.ip_address(a_string(inner))
    except ValueError:
        within = network(inner)
        return within.version == outer.version and within.subnet_of(outer)  # type: ignore[arg-type]
    return address in outer


def contains_matches(blocks: Value, others: Value) -> Set:
    """[index, index] of each pair of which the first contains the second."""
    left, right = list(_indexed(blocks)), list(_indexed(others))
    if len(left) * len(right) > PAIRS_MAX:
        raise LimitError(f"more than {PAIRS_MAX} pairs")
    return set_of([[i, j] for block, i in left for inner, j in right if contains(block, inner)])


def _indexed(value: Value) -> Iterator[tuple[Value, Value]]:
    """(block, how it is called): by itself, its number, its member's key, or its set element."""
    if isinstance(value, str):
        yield value, value
    elif isinstance(value, dict | Pairs):
        yield from ((_first(block), key) for key, block in items(value))
    elif isinstance(value, Set):
        yield from ((_first(block), block) for block in value)
    elif isinstance(value, list):
        yield from ((_first(block), number) for number, block in enumerate(value))


def _first(value: Value) -> Value:
    if isinstance(value, list) and value and not isinstance(value, Set | Pairs):
        return value[0]
    return a_string(value)


def merge(blocks: Value) -> Set:
    """The fewest blocks that cover the same addresses."""
    many = [_block(text) for text in a_collection(blocks)]
    found: list[str] = []
    for version in (ipaddress.IPv4Network, ipaddress.IPv6Network):
        same: Any = [block for block in many if isinstance(block, version)]
        found += map(str, ipaddress.collapse_addresses(same))
    return set_of(list(found))


def _block(text: Value) -> Network:
    """A block; an address alone means the block of its old class."""
    if "/" in a_string(text):
        return network(text)
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise UndefinedError(str(error)) from None
    first = int(address) >> 24
    length = next((length for limit, length in _CLASSES if first < limit), 0)
    if not length:
        raise UndefinedError("an address without a class")
    return ipaddress.ip_network((int(address), length), strict=False)


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "net.cidr_contains_matches": contains_matches,
    "net.cidr_expand": expand,
    "net.cidr_is_valid": is_valid,
    "net.cidr_merge": merge,
}
