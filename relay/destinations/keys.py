"""Under which key an object is kept: a destination's template, filled in from what the client chose.

A client chooses path and file names, so every segment is taken for hostile: it must be one plain name, and no
combination of template and value leads out of the destination's prefix. What only one kind of store does not take
is judged by that store (``ObjectStore.check_key``).
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from relay.destinations.members import check_relative
from relay.errors import PathInvalid

SEGMENT_BYTES = 255
PATH_BYTES = 2_048
PATH_SEGMENTS = 64
TEMPLATE_LONGEST = 1_024

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_DATE = re.compile(r"date:((?:%[YmdHMSj]|[A-Za-z0-9._/-])+)")
_CHOSEN = frozenset({"path", "filename", "upload_id"})


@dataclass(frozen=True, slots=True)
class Name:
    """What a key is made of. ``segments`` are those of the request's path, decoded; ``filename`` is that of a file of a form."""

    segments: tuple[str, ...]
    filename: str | None
    upload_id: str
    at: datetime

    @classmethod
    def of(cls, segments: tuple[str, ...], filename: str | None, upload_id: str) -> Self:
        """Name what is stored now. The empty last segment of a path that ends with a slash belongs to a form: its files lie below."""
        if filename is not None and segments[-1:] == ("",):
            segments = segments[:-1]
        return cls(segments, filename, upload_id, datetime.now(UTC))


class KeyTemplate:
    """A key with variables: ``{path}``, ``{filename}``, ``{upload_id}``, ``{date:%Y/%m/%d}``.

    ``{path}`` is the path of the request; for a file of a form, the file's name below it, unless the template names that
    itself. ``{filename}`` is the name that the form gave, or the path's last segment. The date is that of the upload, in UTC.
    """

    def __init__(self, text: str) -> None:
        """Read a template.

        Raises:
            ValueError: says what to change.
        """
        self._parts = _VARIABLE.split(text)  # text, variable, text, …
        self._variables = frozenset(self._parts[1::2])
        for variable in self._variables:
            if variable not in _CHOSEN and not _DATE.fullmatch(variable):
                raise ValueError(
                    "use the variables {path}, {filename}, {upload_id} and {date:%Y/%m/%d} (of %Y %m %d %H %M %S %j), and no other braces"
                )
        if any(set(part) & set("{}") for part in self._parts[::2]):
            raise ValueError("use braces in pairs, around a variable")
        if not self._variables & _CHOSEN:
            raise ValueError("use {path}, {filename} or {upload_id}: without one of them, all uploads have the same key")
        check_relative(
            _VARIABLE.sub(lambda found: found[1].removeprefix("date:") if ":" in found[1] else "x", text), below="the destination"
        )

    def make(self, name: Name) -> str:
        """Make the key of an object.

        Raises:
            PathInvalid: the path, the file's name, or the key made of them is no plain relative path of a file.
        """
        values = self._values(name)
        key = "".join(values[part] if index % 2 else part for index, part in enumerate(self._parts))
        check_segments(key.split("/"))
        return key

    def _values(self, name: Name) -> Mapping[str, str]:
        filename = name.filename
        if filename is not None:
            check_segments((filename,))
        if name.segments or filename is None:
            check_segments(name.segments)
        is_below = filename is not None and "filename" not in self._variables
        path = (*name.segments, filename) if is_below and filename is not None else name.segments
        values = {"path": "/".join(path), "filename": filename or name.segments[-1], "upload_id": name.upload_id}
        for variable in self._variables - _CHOSEN:
            values[variable] = name.at.strftime(variable.removeprefix("date:"))
        return values


def _checked(value: str) -> str:
    KeyTemplate(value)
    return value


KeyTemplateText = Annotated[str, Field(max_length=TEMPLATE_LONGEST), AfterValidator(_checked)]


def check_segments(segments: Sequence[str]) -> None:
    """Refuse what is not a plain relative path of a file.

    Raises:
        PathInvalid: says which rule the path breaks.
    """
    if not segments or segments[-1] == "":
        raise PathInvalid("The path names no file. End it with a file name, without a trailing slash.")
    if len(segments) > PATH_SEGMENTS:
        raise PathInvalid(f"The path has more than {PATH_SEGMENTS} segments.")
    if sum(_check_segment(segment) + 1 for segment in segments) > PATH_BYTES:
        raise PathInvalid(f"The path is longer than {PATH_BYTES} bytes.")


def _check_segment(segment: str) -> int:
    """Return the segment's length in bytes."""
    if segment in {"", ".", ".."}:
        raise PathInvalid("The path holds an empty segment or a dot segment.")
    if "/" in segment or "\\" in segment or any(unicodedata.category(character) == "Cc" for character in segment):
        raise PathInvalid
    try:
        length = len(segment.encode())
    except UnicodeEncodeError:
        raise PathInvalid("The path is not UTF-8.") from None
    if length > SEGMENT_BYTES:
        raise PathInvalid(f"A segment of the path is longer than {SEGMENT_BYTES} bytes.")
    return length
