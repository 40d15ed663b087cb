"""A node that is configured while it runs: CONFIG_GET and CONFIG_SET need no code, applying them is one function."""

from skep import Message, Node
from skep.contract import Contract, Secret
from skep.errors import ConfigError

node = Node(
    "AI.translator",
    contract=Contract(
        required_fields=("language",),
        optional_fields=("formal",),
        secrets=(Secret("provider.api_key", required=True),),
    ),
)
settings: dict[str, object] = {}


@node.on_config
async def apply(config: dict) -> None:
    if config["language"] not in ("es", "de"):
        raise ConfigError("invalid_config", "language must be es or de")
    settings.update(config)  # the key itself is in node.lifecycle.secrets and in no answer and no log


@node.on_message
async def translate(message: Message) -> object:
    return f"[{settings['language']}] {message.text}"


if __name__ == "__main__":
    node.run()
