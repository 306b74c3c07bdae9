"""May this upload begin? One question, asked before the first byte of the body.

Size by what the request declares, media type by the tenant's patterns. Not here: who is asking (the edge) and
whether the body keeps its word (``uploads/body`` counts what really comes, against the same ``byte_limit``).
"""

from relay.errors import ContentTypeRefused, UploadTooLarge
from relay.settings import UploadSettings
from relay.tenants.tenant import Grant, Tenant

UNDECLARED_TYPE = "application/octet-stream"


class Admission:
    """Judges uploads by the limits of the installation and of their tenant."""

    def __init__(self, upload: UploadSettings) -> None:
        self._max_bytes = upload.max_bytes

    def byte_limit(self, tenant: Tenant) -> int | None:
        """The largest body this tenant may send, in bytes: the smaller of its own limit and the global one."""
        own, most = tenant.limits.max_upload_bytes, self._max_bytes
        if own is None or most is None:
            return own if most is None else int(most)
        return min(own, int(most))

    def admit(self, grant: Grant, *, declared_bytes: int | None, content_type: str | None) -> None:
        """Let the upload begin, or say why not.

        Raises:
            UploadTooLarge: it declares more bytes than the tenant may send.
            ContentTypeRefused: the tenant does not take this media type.
        """
        limit = self.byte_limit(grant.tenant)
        if limit is not None and declared_bytes is not None and declared_bytes > limit:
            raise UploadTooLarge(f"This tenant may send at most {limit} bytes in one upload.")
        patterns = grant.tenant.content_types
        if patterns and not any(_fits(media_type(content_type), pattern.lower()) for pattern in patterns):
            raise ContentTypeRefused(f"Send one of the accepted types: {', '.join(patterns)}.")


def media_type(content_type: str | None) -> str:
    """The media type of a Content-Type field in lower case, without parameters; a missing one is any bytes."""
    return (content_type or "").partition(";")[0].strip().lower() or UNDECLARED_TYPE


def _fits(given: str, pattern: str) -> bool:
    if pattern == "*/*":
        return True
    return given.startswith(pattern[:-1]) if pattern.endswith("/*") else given == pattern
