"""Asking: one answer, an answer in parts, and what happens when nobody answers.

Start a hive (`skep up`), then run this. It is both ends: a node that counts, and a node that asks it.
"""

import asyncio

from skep import DeliveryError, Message, Node, RequestTimeout

counter = Node("AI.counter")
caller = Node("IO.caller")


@counter.on_message(action="count")
async def count(message: Message):
    """An async generator answers in parts."""
    for number in range(message.payload["up_to"]):
        yield {"number": number}


@counter.on_message(action="sum")
async def add(message: Message) -> object:
    """A long answer says how far it is."""
    total = 0
    for number in message.payload["numbers"]:
        total += number
        await message.progress({"so_far": total})
    return {"total": total}


async def main() -> list[str]:
    seen = []
    async with counter, caller:
        answer = await caller.request(
            "AI.counter",
            {"numbers": [1, 2, 3]},
            timeout=5,
            action="sum",
            on_progress=lambda message: seen.append(f"so far {message.payload['so_far']}"),
        )
        seen.append(f"total {answer.payload['total']}")
        parts = caller.stream("AI.counter", {"up_to": 3}, timeout=5, action="count")
        seen += [f"part {part.part_number}: {part.payload['number']}" async for part in parts]
        try:
            await caller.request("AI.nobody", {}, timeout=5)
        except RequestTimeout:
            seen.append("nobody answered in time")
        except DeliveryError as error:
            seen.append(f"refused: {error.reason}")
    return seen


if __name__ == "__main__":
    print("\n".join(asyncio.run(main())))
