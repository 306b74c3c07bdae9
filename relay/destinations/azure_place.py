"""A container as one destination uses it: below its prefix, by its rules, with what the process shares out."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from relay.destinations.azure_answers import READ, Refused
from relay.destinations.azure_config import AzureConfig
from relay.destinations.azure_container import BlobContainer, Standing
from relay.destinations.azure_signing import Signer
from relay.destinations.filling import PartTools
from relay.destinations.store_requests import Patience
from relay.errors import RelayError

ASK_PATIENCE: Final = Patience(tries=3, first_pause=0.1, longest_pause=0.5, total=30.0)
"""For what somebody waits for who has sent nothing yet."""

Answer = TypeVar("Answer")


@dataclass
class AzurePlace:
    """One destination's part of a container. ``is_blind``: the store has said that these credentials may not see what stands there."""

    container: BlobContainer
    signer: Signer
    config: AzureConfig
    tools: PartTools
    owner: str
    is_blind: bool = False
    patience: Patience = Patience()  # noqa: RUF009 - it is frozen

    @property
    def is_refusing(self) -> bool:
        """True when no blob is replaced."""
        return self.config.overwrite == "refuse"

    def whole_key(self, key: str) -> str:
        """A blob's name in the container."""
        return f"{self.config.prefix}/{key}" if self.config.prefix else key

    async def ask(self, call: Callable[[], Awaitable[Answer]], need: str, patience: Patience | None = None) -> Answer:
        """Ask until there is an answer, or no hope; ``need`` is what the request needs.

        Raises:
            RelayError: the store said no, cannot be reached, or failed.
        """
        try:
            return await (patience or self.patience).insist(call)
        except Refused as refused:
            raise self.explain(refused, need) from None

    async def find_standing(self, key: str, patience: Patience) -> Standing | None:
        """What stands under a name, if these credentials may know it.

        Raises:
            RelayError: the store said no, cannot be reached, or failed.
        """
        if self.is_blind:
            return None
        try:
            return await patience.insist(lambda: self.container.head(key))
        except Refused as refused:
            self.is_blind = refused.is_not_permitted
            if not self.is_blind:
                raise self.explain(refused, READ) from None
            return None

    def explain(self, refused: Refused, need: str) -> RelayError:
        """Say a refusal in our words."""
        return refused.explain(need, self.signer)
