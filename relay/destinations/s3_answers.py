"""What stores say: their answers, bounded and parsed without trust, and their refusals in our words."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from relay.destinations.s3_config import is_region
from relay.destinations.store_requests import Refusal
from relay.errors import DestinationBroke, DestinationMisconfigured, DiskFull, PathInvalid, RelayError

RETRY_AFTER_MOST: Final = 30.0

_TRANSIENT_STATUS: Final = frozenset({429, 500, 502, 503, 504})
_TRANSIENT: Final = frozenset(
    {
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "TooManyRequests",
        "OperationAborted",
        "ConditionalRequestConflict",
    }
)
_ALTERED: Final = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"})
_BAD_CREDENTIALS: Final = frozenset(
    {
        "AuthenticationRequired",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_FULL: Final = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded"})
_BAD_KEY: Final = frozenset({"KeyTooLongError", "XMinioInvalidObjectName", "InvalidObjectName", "KeyTooLong"})
_ELSEWHERE: Final = frozenset({"PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint"})
_NOT_ACCEPTED: Final = "The store does not accept the credentials. Set them anew."
_SAID: Final[Mapping[str, tuple[type[RelayError], str | None]]] = {
    "RequestTimeTooSkewed": (DestinationMisconfigured, "The store says that this machine's clock is wrong. Set the clock."),
    "NoSuchBucket": (DestinationMisconfigured, "The bucket does not exist. Create it, or mend config.bucket."),
    **dict.fromkeys(_BAD_CREDENTIALS, (DestinationMisconfigured, _NOT_ACCEPTED)),
    **dict.fromkeys(_FULL, (DiskFull, None)),
    **dict.fromkeys(_BAD_KEY, (PathInvalid, "The store does not take this name. Choose a shorter or simpler one.")),
    **dict.fromkeys(_ALTERED, (DestinationBroke, "What reached the store was not what was sent. Nothing was published.")),
}
_DIGITS: Final = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a store, whole. ``fields`` have lower-case names; ``attempts`` is how often it was asked."""

    status: int
    fields: Mapping[str, str]
    body: bytes = b""
    attempts: int = 1


class Refused(Refusal):
    """A store said no. Never leaves the modules that speak with stores: ``explain`` says it to others."""

    def __init__(self, reply: Reply, code: str | None = None, region: str | None = None) -> None:
        super().__init__(f"{reply.status} {code}")
        self.status = reply.status
        self.fields = reply.fields
        self.attempts = reply.attempts
        self.code = code
        self.region = region

    @property
    def is_transient(self) -> bool:
        """True when asking again may help."""
        return self.code in _TRANSIENT or self.code in _ALTERED or (self.status in _TRANSIENT_STATUS and self.code != "NotImplemented")

    @property
    def retry_after(self) -> float:
        """How long the store wants to be left alone (seconds), within reason."""
        value = self.fields.get("retry-after", "")
        return min(float(value), RETRY_AFTER_MOST) if _DIGITS.fullmatch(value) else 0.0

    @property
    def is_taken(self) -> bool:
        """True when a condition did not hold: there is an object of that name."""
        return self.status == 412


def parse_xml(body: bytes) -> Element | None:
    """Parse an answer; ``None`` when it is not XML, or wants to define something."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(body.lstrip(), True)
        return builder.close()
    except (expat.ExpatError, ValueError, AssertionError, RecursionError):
        return None


def _refuse(*_: Any) -> None:
    raise ValueError("an answer of a store has no document type")


def name_of(element: Element) -> str:
    """An element's name without its prefix."""
    return str(element.tag).rpartition(":")[2]


def find_text(element: Element, name: str) -> str | None:
    """The text of the first child of this name."""
    return next(((child.text or "").strip() for child in element if name_of(child) == name), None)


def find_all(element: Element, name: str) -> Iterator[Element]:
    """The children of this name."""
    return (child for child in element if name_of(child) == name)


def read_refusal(reply: Reply) -> Refused:
    """The refusal that an answer is."""
    root = parse_xml(reply.body) if reply.body else None
    code = find_text(root, "Code") if root is not None and name_of(root) == "Error" else None
    region = reply.fields.get("x-amz-bucket-region") or (find_text(root, "Region") if root is not None else None)
    return Refused(reply, code, region if region is not None and is_region(region) else None)


def explain(refused: Refused, permission: str) -> RelayError:
    """Say a refusal in our words; ``permission`` is what the request needs."""
    return _explain_code(refused) or _explain_status(refused, permission)


def _explain_code(refused: Refused) -> RelayError | None:
    if refused.code in _ELSEWHERE:
        return _elsewhere(refused.region)
    fault, detail = _SAID.get(refused.code or "", (None, None))
    return None if fault is None else fault(detail)


def _explain_status(refused: Refused, permission: str) -> RelayError:
    match refused.status:
        case 401:
            return DestinationMisconfigured(_NOT_ACCEPTED)
        case 403:
            return DestinationMisconfigured(f"The store does not permit {permission}. Grant it to these credentials.")
        case 404:
            return DestinationMisconfigured("There is no such bucket at config.endpoint_url, or no store.")
        case 507:
            return DiskFull()
        case status if 300 <= status < 400:
            return _elsewhere(refused.region)
    return DestinationBroke(f"The store answered {refused.status} to a request that needs {permission}. Nothing was published.")


def _elsewhere(region: str | None) -> RelayError:
    where = f"in the region {region}: set config.region" if region else "elsewhere: set config.region or config.endpoint_url"
    return DestinationMisconfigured(f"The bucket is {where}.")
