"""A typed handler: the payload is checked before your code sees it, and a bad one is answered for you."""

from pydantic import BaseModel, Field

from skep import Message, Node


class Order(BaseModel):
    item: str
    count: int = Field(gt=0, le=100)


class Bill(BaseModel):
    text: str
    cents: int


node = Node("AI.shop")


@node.on_message(model=Order)
async def order(message: Message, order: Order) -> Bill:
    return Bill(text=f"{order.count} x {order.item}", cents=250 * order.count)


if __name__ == "__main__":
    node.run()
