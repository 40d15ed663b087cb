"""What an application value becomes on the wire.

dict, list, number, bool and None travel as JSON, bytes as bytes, and str as a text/v1 object
`{"type":"text","content":…}`, because that is what every peer, JSON ones included, understands as text. A typed model
travels as its JSON. Decoding belongs to the protocol; building and reading text/v1 with references too
(`skep.protocol.payload`), this module only decides which of them a Python value means.
"""

from __future__ import annotations

from typing import Any, Final

from skep.protocol import strict_json
from skep.protocol.header import ContentType

JSON: Final = int(ContentType.JSON)
BYTES: Final = int(ContentType.BYTES)


def encode(value: Any) -> tuple[bytes, int]:
    """The bytes and content type of `value`. Raises LocalProtocolError for what JSON cannot say."""
    kind = type(value)
    if kind is bytes:
        return value, BYTES
    if kind is str:
        return strict_json.dumps({"type": "text", "content": value}), JSON
    if kind is bytearray or kind is memoryview:
        return bytes(value), BYTES
    dump = getattr(value, "model_dump", None)  # a typed model
    return strict_json.dumps(value if dump is None else dump(mode="json")), JSON


def text_of(value: Any) -> str | None:
    """The inline text of a payload: a str, or the content of a text/v1 object; None when there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        content = value.get("content")
        if isinstance(content, str):
            return content
    return None
