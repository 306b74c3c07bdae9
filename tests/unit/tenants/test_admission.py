"""Admission: the smaller limit holds, media types are compared as RFC 9110 says."""

import pytest
from pydantic import ByteSize

from relay.errors import ContentTypeRefused, UploadTooLarge
from relay.settings import UploadSettings
from relay.tenants.admission import Admission
from relay.tenants.tenant import Limits
from tests.support.grants import make_grant


@pytest.mark.parametrize(
    ("own", "everybodys", "limit"),
    [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (7, 5, 5)],
)
def test_the_smaller_limit_holds(own: int | None, everybodys: int | None, limit: int | None) -> None:
    admission = Admission(UploadSettings(max_bytes=None if everybodys is None else ByteSize(everybodys)))
    grant = make_grant(limits=Limits(own))
    assert admission.byte_limit(grant.tenant) == limit
    admission.admit(grant, declared_bytes=limit, content_type=None)
    admission.admit(grant, declared_bytes=None, content_type=None)
    if limit is not None:
        with pytest.raises(UploadTooLarge, match=str(limit)):
            admission.admit(grant, declared_bytes=limit + 1, content_type=None)


@pytest.mark.parametrize(
    ("patterns", "content_type"),
    [
        ((), "anything at all"),
        ((), None),
        (("image/*",), "image/png"),
        (("image/*",), "IMAGE/PNG"),
        (("Image/*",), "image/png; q=1"),
        (("text/plain",), "text/plain;charset=utf-8"),
        (("text/plain", "image/*"), " image/gif "),
        (("application/octet-stream",), None),
        (("application/octet-stream",), ""),
        (("*/*",), "a/b"),
    ],
)
def test_accepted_type_passes(patterns: tuple[str, ...], content_type: str | None) -> None:
    Admission(UploadSettings()).admit(make_grant(content_types=patterns), declared_bytes=1, content_type=content_type)


@pytest.mark.parametrize(
    ("patterns", "content_type"),
    [
        (("image/*",), "imagery/png"),
        (("image/*",), "text/plain; image/png"),
        (("image/*",), None),
        (("text/plain",), "text/plainer"),
        (("text/plain",), "text"),
        (("application/*",), "image/png"),
    ],
)
def test_other_type_is_refused_and_the_accepted_ones_are_named(patterns: tuple[str, ...], content_type: str | None) -> None:
    with pytest.raises(ContentTypeRefused, match=patterns[0].replace("*", r"\*")):
        Admission(UploadSettings()).admit(make_grant(content_types=patterns), declared_bytes=1, content_type=content_type)
