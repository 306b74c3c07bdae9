"""Every failure Relay reports on purpose, one tree by culprit.

    RelayError
    ├── ClientFault       the request was wrong                      4xx   INFO
    ├── ClientGone        the client left before its body was whole  499   INFO (log and ledger only)
    ├── DependencyFault   a destination or Postgres let us down      5xx   WARNING
    └── RelayFault        we could not keep our own promise          5xx   ERROR or WARNING

A leaf is a promise to clients: its ``code`` never changes its meaning. Errors are born in the module
that meets the failure, rendered once in ``api/problems.py`` and never carry a library's message,
a secret, or the existence of another tenant. This module imports nothing of ours.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one member of a request: where, a code, and what to do."""

    location: tuple[str | int, ...]
    code: str
    message: str


class RelayError(Exception):
    """A failure with a stable code. ``detail`` says what happened and what to do about it."""

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    advice: ClassVar[str]
    level: ClassVar[int] = logging.INFO
    retry_after_seconds: ClassVar[int | None] = None

    def __init__(self, detail: str | None = None, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail or self.advice)
        self.detail = detail or self.advice
        self.objects: Sequence[Mapping[str, Any]] = ()
        """What of a form had landed in a store before this failed."""

        self.errors = tuple(errors)


class ClientFault(RelayError):
    """The request is at fault: sending it again unchanged will fail again."""


class DependencyFault(RelayError):
    """Something we depend on failed: the same request may succeed later."""

    level = logging.WARNING


class RelayFault(RelayError):
    """Relay itself could not do what it promises."""

    level = logging.ERROR


class ClientGone(RelayError):
    """The client left before its body was whole. Never rendered: nobody is there to read it."""

    code = "client_gone"
    status = 499
    title = "Client gone"
    advice = "The client closed the connection before its body was whole."


# ── the main door: the request itself ────────────────────────────────────────────────────────────


class PathInvalid(ClientFault):
    code = "path_invalid"
    status = 400
    title = "Path invalid"
    advice = "Send a path without dot segments, encoded slashes or backslashes, NUL or control characters."


class CredentialsAmbiguous(ClientFault):
    code = "credentials_ambiguous"
    status = 400
    title = "Credentials ambiguous"
    advice = "Send one key, either as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."


class FramingInvalid(ClientFault):
    code = "framing_invalid"
    status = 400
    title = "Framing invalid"
    advice = "Send exactly one Host and either one Content-Length or 'Transfer-Encoding: chunked', never both."


class BodyIncomplete(ClientFault):
    code = "body_incomplete"
    status = 400
    title = "Body incomplete"
    advice = "The body ended before its declared length. Send the whole body again."


class RangeRefused(ClientFault):
    code = "range_refused"
    status = 400
    title = "Content-Range refused"
    advice = "This destination stores whole files: send the whole file without Content-Range."


class MetadataInvalid(ClientFault):
    code = "metadata_invalid"
    status = 400
    title = "Metadata invalid"
    advice = "A field that is to be kept with the object cannot be. Send printable ASCII, and at most 2,048 bytes of X-Object-Meta fields."


class FormInvalid(ClientFault):
    code = "form_invalid"
    status = 400
    title = "Form invalid"
    advice = "Send the form as multipart/form-data (RFC 7578), whole and within the operator's limits."


class DigestUnsupported(ClientFault):
    code = "digest_unsupported"
    status = 400
    title = "Digest unsupported"
    advice = "None of the algorithms of the claimed digest is known here. Claim sha-256, sha-512, md5 or crc32c (RFC 9530), or nothing."


class UploadTooLarge(ClientFault):
    code = "upload_too_large"
    status = 413
    title = "Upload too large"
    advice = "The body is larger than this tenant may send. Send a smaller file or ask the operator for a higher limit."


class ContentTypeRefused(ClientFault):
    code = "content_type_refused"
    status = 415
    title = "Content type refused"
    advice = "This tenant does not accept this Content-Type. Send one of the accepted types."


class ObjectExists(ClientFault):
    code = "object_exists"
    status = 409
    title = "Object exists"
    advice = "An object of this name exists and this destination refuses to replace it. Choose another path."


class DigestMismatch(ClientFault):
    code = "digest_mismatch"
    status = 422
    title = "Digest mismatch"
    advice = "The body's digest is not the one claimed. Nothing was kept. Send the file again."


class ClientTooSlow(ClientFault):
    code = "client_too_slow"
    status = 408
    title = "Client too slow"
    advice = "The body stopped coming or came too slowly. Send it again over a better connection."


class LimitExceeded(ClientFault):
    code = "limit_exceeded"
    status = 429
    title = "Limit exceeded"
    advice = "This tenant sends too much at once. Wait as long as Retry-After says, then try again."
    retry_after_seconds = 1


class HeadTooLarge(ClientFault):
    code = "head_too_large"
    status = 431
    title = "Request head too large"
    advice = "Send fewer or shorter header fields."


class LoopDetected(ClientFault):
    code = "loop_detected"
    status = 508
    title = "Loop detected"
    advice = "This request has passed through this relay before. Mend the destination that points back at it."
    level = logging.WARNING


class MethodNotAllowed(ClientFault):
    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"
    advice = "Use one of the methods that the Allow header names."

    def __init__(self, allow: Sequence[str]) -> None:
        super().__init__()
        self.allow = tuple(allow)


# ── who is asking ────────────────────────────────────────────────────────────────────────────────


class CredentialsRefused(ClientFault):
    """401: rendered with ``WWW-Authenticate``."""

    status = 401


class KeyMissing(CredentialsRefused):
    code = "key_missing"
    title = "Key missing"
    advice = "Send the tenant's key as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."


class KeyInvalid(CredentialsRefused):
    code = "key_invalid"
    title = "Key invalid"
    advice = "The key is not valid. Check that the whole key was copied, or ask the operator for a new one."


class KeyExpired(CredentialsRefused):
    code = "key_expired"
    title = "Key expired"
    advice = "The key has expired. Ask the operator for a new one."


class KeyRevoked(CredentialsRefused):
    code = "key_revoked"
    title = "Key revoked"
    advice = "The key was revoked. Ask the operator for a new one."


class TenantDisabled(ClientFault):
    code = "tenant_disabled"
    status = 403
    title = "Tenant disabled"
    advice = "This tenant is disabled. Ask the operator."


class ScopeMissing(ClientFault):
    code = "scope_missing"
    status = 403
    title = "Scope missing"
    advice = "The key lacks the scope that this request needs. Ask the operator for a key that has it."


class UploadCancelled(ClientFault):
    code = "upload_cancelled"
    status = 403
    title = "Upload cancelled"
    advice = "An operator ended this upload while it ran. Do not send it again before you have asked the operator."


class OperatorTokenInvalid(CredentialsRefused):
    code = "operator_token_invalid"
    title = "Operator token invalid"
    advice = "Send the operator's token as 'Authorization: Bearer <token>'."


class OperatorReadOnly(ClientFault):
    code = "operator_read_only"
    status = 403
    title = "Operator may only read"
    advice = "This token may read and change nothing. Use a token that may change things."


# ── what was asked for does not exist or does not fit ────────────────────────────────────────────


class NotFound(ClientFault):
    code = "not_found"
    status = 404
    title = "Not found"
    advice = "There is nothing under this address. Check the path."


class RouteNotFound(NotFound):
    code = "route_not_found"
    title = "Route not found"
    advice = "No route matches this path and the tenant has no default destination. Ask the operator for a route."


class UploadNotFound(NotFound):
    code = "upload_not_found"
    title = "Upload not found"
    advice = "No upload with this id is known. A finished upload appears within a second; try again shortly."
    retry_after_seconds = 1


class UploadNotRunning(NotFound):
    code = "upload_not_running"
    title = "Upload not running"
    advice = "No upload with this id runs on this host. It may have ended: look it up in the ledger."


class TenantNotFound(NotFound):
    code = "tenant_not_found"
    title = "Tenant not found"
    advice = "No tenant has this slug. List the tenants to see which exist."


class KeyNotFound(NotFound):
    code = "key_not_found"
    title = "Key not found"
    advice = "This tenant has no key with this id. List its keys to see which exist."


class DestinationNotFound(NotFound):
    code = "destination_not_found"
    title = "Destination not found"
    advice = "This tenant has no destination of this name. List its destinations to see which exist."


class EntryNotFound(NotFound):
    code = "entry_not_found"
    title = "Entry not found"
    advice = "The ledger holds no such entry."


class TenantExists(ClientFault):
    code = "tenant_exists"
    status = 409
    title = "Tenant exists"
    advice = "This slug is taken, perhaps by a deleted tenant: slugs are unique for ever. Choose another one."


class DestinationExists(ClientFault):
    code = "destination_exists"
    status = 409
    title = "Destination exists"
    advice = "This tenant has a destination of this name. Choose another name or change that one."


class DestinationInUse(ClientFault):
    code = "destination_in_use"
    status = 409
    title = "Destination in use"
    advice = "A route leads to this destination. Delete or change the route first."


class RouteExists(ClientFault):
    code = "route_exists"
    status = 409
    title = "Route exists"
    advice = "This tenant has a route with this prefix. Change that one instead."


class EtagMismatch(ClientFault):
    code = "etag_mismatch"
    status = 412
    title = "ETag mismatch"
    advice = "The object changed since it was read. Read it again and repeat the change."


class RequestInvalid(ClientFault):
    """422: ``errors`` names each member that is wrong."""

    code = "request_invalid"
    status = 422
    title = "Request invalid"
    advice = "Mend the members named in 'errors' and send the request again."


# ── destinations ─────────────────────────────────────────────────────────────────────────────────


class DestinationUnreachable(DependencyFault):
    code = "destination_unreachable"
    status = 502
    title = "Destination unreachable"
    advice = "The tenant's destination could not be reached. Nothing was delivered; try again later."


class DestinationRefusedTls(DependencyFault):
    code = "destination_refused_tls"
    status = 502
    title = "Destination refused TLS"
    advice = "No trusted TLS connection to the destination could be made. Check its certificate."


class DestinationBroke(DependencyFault):
    code = "destination_broke"
    status = 502
    title = "Destination broke"
    advice = "The destination's answer broke off or was not HTTP. What it kept is unknown."


class AnsweredEarly(DependencyFault):
    code = "answered_early"
    status = 502
    title = "Answered early"
    advice = "The destination answered with success before it had taken the whole body. What it kept is unknown."


class EgressDenied(DependencyFault):
    code = "egress_denied"
    status = 502
    title = "Egress denied"
    advice = "The destination's address is private or otherwise not permitted. The operator can allow it by RELAY_EGRESS_ALLOW."


class DestinationTimeout(DependencyFault):
    code = "destination_timeout"
    status = 504
    title = "Destination timeout"
    advice = "The destination did not take the body or answer in time. What it kept is unknown."


class DestinationBusy(DependencyFault):
    code = "destination_busy"
    status = 503
    title = "Destination busy"
    advice = "All connections that this destination may have are in use. Try again shortly."
    retry_after_seconds = 1


class DestinationMisconfigured(DependencyFault):
    code = "destination_misconfigured"
    status = 502
    title = "Destination misconfigured"
    advice = "The destination's settings cannot be used. The operator can run the destination's check to see why."


class DiskFull(DependencyFault):
    code = "disk_full"
    status = 507
    title = "Disk full"
    advice = "The destination has no room for this file. Nothing was kept."


# ── ourselves ────────────────────────────────────────────────────────────────────────────────────


class DirectoryUnavailable(DependencyFault):
    code = "directory_unavailable"
    status = 503
    title = "Directory unavailable"
    advice = "Keys cannot be checked at the moment. Try again shortly."
    retry_after_seconds = 2


class DatabaseUnavailable(DependencyFault):
    code = "database_unavailable"
    status = 503
    title = "Database unavailable"
    advice = "The database does not answer. Uploads of known tenants go on; try this request again shortly."
    retry_after_seconds = 2


class SearchTooSlow(DependencyFault):
    code = "search_too_slow"
    status = 503
    title = "Search too slow"
    advice = "The ledger could not be searched in time. Narrow the search: give 'since' and 'until', or the tenant."


class WorkerUnreachable(RelayFault):
    code = "worker_unreachable"
    status = 503
    title = "Worker unreachable"
    advice = "A worker of this host did not answer in time: the upload may run there, and go on. List the running uploads, then try again."
    level = logging.WARNING
    retry_after_seconds = 1


class JournalFull(RelayFault):
    code = "journal_full"
    status = 503
    title = "Journal full"
    advice = "The local journal has reached its bound because the database has been away. Try again later."
    retry_after_seconds = 10


class ShuttingDown(RelayFault):
    code = "shutting_down"
    status = 503
    title = "Shutting down"
    advice = "This process is shutting down. Try again: another one answers."
    level = logging.INFO
    retry_after_seconds = 1


class InternalError(RelayFault):
    code = "internal_error"
    status = 500
    title = "Internal error"
    advice = "Relay failed. Tell the operator the request id."


class DiskBroke(RelayFault):
    code = "disk_broke"
    status = 500
    title = "Disk failed"
    advice = "The disk could not be written. Nothing was kept; tell the operator the request id."
