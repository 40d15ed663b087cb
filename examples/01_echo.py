from skep import Message, Node

node = Node("AI.echo")


@node.on_message
async def echo(message: Message) -> object:
    return {"echo": message.payload}


if __name__ == "__main__":
    node.run()
