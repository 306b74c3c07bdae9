"""What a blob store says no with, and the same in our words.

The store names its reason in the field ``x-ms-error-code`` of every refusal ("Status and error codes" in the REST reference of
Azure Storage), so the XML below it is never parsed.
"""

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from relay.destinations.azure_signing import Signer
from relay.destinations.store_requests import Refusal, Reply
from relay.errors import DestinationBroke, DestinationMisconfigured, PathInvalid, RelayError

CLOCKS_DIFFER: Final = timedelta(minutes=15)
RETRY_AFTER_MOST: Final = 30.0

WRITE: Final = "to write a new blob (c and w of a SAS)"
READ: Final = "to read a blob (r of a SAS)"
DELETE: Final = "to delete a blob (d of a SAS)"

_TRANSIENT_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
_ALTERED: Final = frozenset({"Md5Mismatch", "Crc64Mismatch", "IncompleteBody"})
_STANDING: Final = frozenset(
    {
        "BlobAlreadyExists",
        "BlobArchived",
        "BlobBeingRehydrated",
        "BlobImmutableDueToPolicy",
        "ConditionNotMet",
        "LeaseIdMissing",
        "UnauthorizedBlobOverwrite",
    }
)
_MISCONFIGURED: Final[Mapping[str | None, str]] = {
    "AccountBeingCreated": "The storage account is being created. Try again later.",
    "AccountIsDisabled": "The storage account is disabled. Enable it, or set config.account anew.",
    "AuthorizationProtocolMismatch": "The SAS token is for https alone: set config.endpoint_url to https.",
    "AuthorizationResourceTypeMismatch": "The SAS token is not for blobs: issue one for the container (sr=c), or with the resource type o.",
    "AuthorizationServiceMismatch": "The SAS token is not for the blob service (ss=b). Issue another one.",
    "AuthorizationSourceIPMismatch": "The SAS token is not for this machine's address (sip). Issue another one.",
    "BlobArchived": "A blob of this name lies in the archive tier and cannot be replaced there. Move it to another tier first.",
    "BlobBeingRehydrated": "A blob of this name is on its way out of the archive tier and cannot be replaced before it is there.",
    "BlobImmutableDueToPolicy": "A blob of this name is immutable by a policy of the container, and cannot be replaced.",
    "ContainerBeingDeleted": "The container is being deleted. Create it anew, or set config.container.",
    "ContainerDisabled": "The container is disabled. Enable it, or set config.container anew.",
    "ContainerNotFound": "The container does not exist. Create it, or set config.container anew.",
    "InvalidBlobType": "A blob of this name is no block blob, and cannot be written.",
    "KeyBasedAuthenticationNotPermitted": "The storage account takes no account key. Give secrets.sas_token instead.",
    "LeaseIdMissing": "A blob of this name is leased, and cannot be replaced. End the lease.",
    "ResourceNotFound": "The container does not exist. Create it, or set config.container anew.",
    "UnauthorizedBlobOverwrite": "The credentials do not permit to replace a blob (w of a SAS). Grant it to them.",
}
_NOT_PERMITTED: Final = frozenset({"AuthorizationPermissionMismatch", "InsufficientAccountPermissions", "UnauthorizedBlobOverwrite"})
_BAD_NAME: Final = frozenset({"InvalidUri", "InvalidResourceName", "OutOfRangeInput"})
_NOT_AS_SENT: Final = "What reached the store was not what was sent. Nothing was published."
_OTHER_BLOCKS: Final = (
    "Another program has begun an upload of this name in a way that does not go together with Relay's. The store forgets it within"
    " a week. Choose another path until then."
)
_BROKE: Final[Mapping[str | None, str]] = {
    **dict.fromkeys(_ALTERED, _NOT_AS_SENT),
    **dict.fromkeys(("InvalidBlobOrBlock", "InvalidBlockId", "BlockCountExceedsLimit"), _OTHER_BLOCKS),
    "InvalidBlockList": "The store no longer has the blocks of this upload: another upload of this name has ended meanwhile."
    " Nothing of this one was published.",
}
_CODE: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_DIGITS: Final = re.compile(r"[0-9]{1,6}")

_log = logging.getLogger(__name__)


class Refused(Refusal):
    """A blob store said no. Never leaves the modules that speak with it: ``explain`` says it to others."""

    def __init__(self, reply: Reply) -> None:
        code = reply.fields.get("x-ms-error-code", "")
        self.code = code if _CODE.fullmatch(code) else None
        super().__init__(f"{reply.status} {self.code}")
        self.status = reply.status
        self._wish = reply.fields.get("retry-after", "")
        self._clock = reply.fields.get("date", "")
        self._request_id = reply.fields.get("x-ms-request-id", "")[:64]

    @property
    def is_transient(self) -> bool:
        """True when asking again may help."""
        return self.status in _TRANSIENT_STATUS or self.code in _ALTERED

    @property
    def retry_after(self) -> float:
        """How long the store wants to be left alone (seconds), within reason."""
        return min(float(self._wish), RETRY_AFTER_MOST) if _DIGITS.fullmatch(self._wish) else 0.0

    @property
    def is_standing(self) -> bool:
        """True when the store refuses because there is a blob of that name."""
        return self.code in _STANDING or (self.code is None and self.status in {409, 412})

    @property
    def is_nothing(self) -> bool:
        """True when there is no such blob, in a container that there is."""
        return self.status == 404 and self.code in {None, "BlobNotFound"}

    @property
    def is_not_permitted(self) -> bool:
        """True when the credentials are good, and not for this."""
        return self.status == 403 and self.code in _NOT_PERMITTED

    @property
    def has_lost_blocks(self) -> bool:
        """True when the blocks that were to be published are not there."""
        return self.code == "InvalidBlockList"

    def explain(self, need: str, signer: Signer) -> RelayError:
        """Say it in our words; ``need`` is what the request needs."""
        told = {"status": self.status, "code": self.code, "store_request_id": self._request_id}
        _log.warning("a blob store refused", extra={"fields": told})
        if (problem := self._find_misconfiguration(need, signer)) is not None:
            return DestinationMisconfigured(problem)
        if self.code in _BAD_NAME:
            return PathInvalid("The store does not take this name. Choose a shorter or simpler one.")
        if self.code in _BROKE:
            return DestinationBroke(_BROKE[self.code])
        return DestinationBroke(f"The store answered {self.status} to a request that needs {need}. Nothing was published.")

    def _find_misconfiguration(self, need: str, signer: Signer) -> str | None:
        if self.code in _MISCONFIGURED:
            return _MISCONFIGURED[self.code]
        if self.code in _NOT_PERMITTED:
            return f"The {signer.name} does not permit {need}, or its issuer may not grant that. Grant it."
        if self.status in {401, 403}:
            return self._describe_credentials(signer)
        is_elsewhere = 300 <= self.status < 400 or self.status == 404
        return "There is no blob store at config.endpoint_url, or no such account." if is_elsewhere else None

    def _describe_credentials(self, signer: Signer) -> str:
        now = datetime.now(UTC)
        if (expired_at := signer.expired_at(now)) is not None:
            return f"The {signer.name} expired at {expired_at:%Y-%m-%d %H:%M} UTC. Set it anew."
        try:
            is_off = abs(parsedate_to_datetime(self._clock) - now) > CLOCKS_DIFFER
        except (ValueError, TypeError):
            is_off = False
        if is_off:
            return "The store's clock and this machine's differ by more than 15 minutes. Set the clock."
        if self.code == "AuthorizationFailure":
            return f"The store does not accept the {signer.name}, or its network rules do not let this machine in."
        return f"The store does not accept the {signer.name}. Set it anew."
