"""What the registrar refuses: a stable code, and a sentence with what happened and what to do next."""

from __future__ import annotations


class DegreeRefusal(Exception):
    """An expected no."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail

    def answer(self) -> dict[str, str]:
        """What the asker hears."""
        return {"status": "error", "error_code": self.code, "error_detail": self.detail}
