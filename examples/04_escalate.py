"""An agent that knows when it does not know: the thread goes to a person, and comes back when they are done."""

from skep import Message, Node

agent = Node("AI.helper")
person = Node("IO.desk")
answers = {"opening hours": "We are open from 9 to 17."}


@agent.on_message
async def answer(message: Message) -> object:
    text = message.text or ""
    if text in answers:
        return answers[text]
    await agent.escalate(message, to="IO.desk", reason="not in the answers")
    return "I have asked a colleague."


@person.on_message
async def take_over(message: Message) -> object:
    """From the hand-over on, every message of this thread comes here, whoever it was addressed to."""
    if message.text == "thanks":
        await person.return_thread(message)
        return "You are welcome."
    return f"A person here. About {message.text!r}: let me look."


if __name__ == "__main__":
    agent.run()
