"""How sure do you want to be? Acknowledgements name their level, and what could not be delivered is reported."""

import asyncio

from skep import DeliveryError, Message, Node, Report

sink = Node("AI.sink")
source = Node("IO.source")
told: list[str] = []


@sink.on_message
async def take(message: Message) -> None:
    pass


@source.on_report
async def not_delivered(report: Report) -> None:
    """LOST: send it again. UNKNOWN: it may have arrived. REFUSED: `reason` says why."""
    told.append(f"{report.outcome}: {report.reason}")


async def main() -> list[str]:
    async with sink, source:
        for level in ("routed", "delivered", "processed"):
            receipt = await source.send("AI.sink", {"n": 1}, ack=level, deadline=5)
            told.append(receipt.level.name.lower())
        await source.send("AI.nobody", {"n": 2})  # nobody waits for this one: the refusal becomes a report
        try:
            await source.send("AI.nobody", {"n": 3}, ack="delivered", deadline=5)
        except DeliveryError as error:
            told.append(f"raised {error.reason}")
    return told


if __name__ == "__main__":
    print("\n".join(asyncio.run(main())))
