"""No async: a script that asks one question. Run 01_echo.py beside it."""

import sys

import skep.sync


def main(text: str, hive: str | None = None) -> object:
    with skep.sync.connect("IO.script", hive=hive) as connection:
        return connection.request("AI.echo", {"text": text}, timeout=5).payload


if __name__ == "__main__":
    print(main(" ".join(sys.argv[1:]) or "hello"))
