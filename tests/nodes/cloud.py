"""Webhooks as the WhatsApp Cloud API sends them."""

from __future__ import annotations

from typing import Any

SENDER = "34600111222"
WAMID = "wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQzQTRBNjU5OUFFRTAzODEwMTQ0RgA="


def webhook(*messages: dict[str, Any], number: str = "106540352242922", **value: Any) -> dict[str, Any]:
    """A webhook as the Cloud API sends it."""
    contacts = [{"profile": {"name": "Ana"}, "wa_id": each.get("from", "")} for each in messages]
    change = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550783881", "phone_number_id": number},
        "contacts": contacts,
        "messages": list(messages),
        **value,
    }
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "1", "changes": [{"value": change, "field": "messages"}]}],
    }


def text(body: str, message_id: str = WAMID, sender: str = SENDER) -> dict[str, Any]:
    return {
        "from": sender,
        "id": message_id,
        "timestamp": "1749416383",
        "type": "text",
        "text": {"body": body},
    }
