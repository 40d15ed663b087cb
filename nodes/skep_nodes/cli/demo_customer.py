"""The demo's customer: a phone, and the part of WhatsApp's Cloud API that stands between it and us.

Messages go in as real signed webhooks over HTTP; answers are posted to a real HTTP server here, which is what
`graph.facebook.com` is in production. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CUSTOMER = "34600111222"
BODY_BYTES_MAX = 1 << 20
ANSWERS_MAX = 100


class Phone:
    """Sends as the customer and keeps what the customer is sent."""

    def __init__(self, number_id: str) -> None:
        self._number_id = number_id
        self._sent = 0
        self._answers: queue.Queue[str] = queue.Queue(ANSWERS_MAX)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answers))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def api_url(self) -> str:
        """What to give IO.whatsapp as base_url."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def say(self, url: str, app_secret: str, text: str) -> int:
        """Post one message as the provider would; returns the HTTP status."""
        self._sent += 1
        body = json.dumps(webhook(self._number_id, f"wamid.demo{self._sent}", text)).encode()
        signature = "sha256=" + hmac.new(app_secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": signature}
        request = urllib.request.Request(url, body, headers)  # noqa: S310  our own loopback address
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            return int(response.status)

    def hear(self, within_s: float) -> str | None:
        """The next answer, None when none comes in time."""
        try:
            return self._answers.get(timeout=within_s)
        except queue.Empty:
            return None


def webhook(number_id: str, message_id: str, text: str) -> dict[str, Any]:
    """A text message as the Cloud API's webhook delivers it."""
    message = {
        "from": CUSTOMER, "id": message_id, "timestamp": str(int(time.time())), "type": "text", "text": {"body": text},
    }  # fmt: skip
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "34900000000", "phone_number_id": number_id},
        "contacts": [{"profile": {"name": "Ana"}, "wa_id": CUSTOMER}],
        "messages": [message],
    }
    entry = {"id": "1", "changes": [{"field": "messages", "value": value}]}
    return {"object": "whatsapp_business_account", "entry": [entry]}


def _handler(answers: queue.Queue[str]) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        """POST /{version}/{number}/messages."""

        def do_POST(self) -> None:
            size = min(int(self.headers.get("Content-Length", 0)), BODY_BYTES_MAX)
            message = json.loads(self.rfile.read(size))
            reply = json.dumps(
                {"messaging_product": "whatsapp", "messages": [{"id": "wamid.answer"}]}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)
            answers.put(str(message.get("text", {}).get("body", "")))

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the transcript says what happened."""

    return Api
