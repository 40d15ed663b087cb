"""What a look-up answers with where most who ask want one or two members of a record: a view of the verified copy.

It is equal to the record, is read like it, and never changes: a member is decoded from the copy when it is asked for.
`lookup.finder` makes it with `known` None, and nobody else does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=tuple[Any, ...])


class Found(Generic[T]):
    """A record that was looked up. Subclasses say how it is decoded, and which members are worth a way of their own."""

    __slots__ = ("raw", "known")
    raw: bytes
    known: T | None

    @abstractmethod
    def _decoded(self) -> T:
        """The whole record, from `raw`."""

    @property
    def record(self) -> T:
        """The whole record, decoded once."""
        if self.known is None:
            self.known = self._decoded()
        return self.known

    def __getattr__(self, name: str) -> Any:
        """Of what has no way of its own, all members and methods of the record; Python asks here last."""
        if name in Found.__slots__:
            raise AttributeError(name)
        return getattr(self.record, name)

    def __eq__(self, other: object) -> bool:
        return self.record == (other.record if isinstance(other, Found) else other)

    def __hash__(self) -> int:
        return hash(self.record)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.record)

    def __len__(self) -> int:
        return len(self.record)

    def __getitem__(self, index: Any) -> Any:
        return self.record[index]

    def __repr__(self) -> str:
        return repr(self.record)

    def __reduce__(self) -> Any:
        """A copy of a view, and what is sent elsewhere, is the record itself."""
        record = self.record
        return type(record), tuple(record)
