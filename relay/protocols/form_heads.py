r"""What is said before the content of a form: its Content-Type, and the head of each part (RFC 7578, RFC 2046). No I/O.

Names are written in three ways, and one reading serves them all. Browsers put UTF-8 between quotes and write a quote as
``%22`` and a line break as ``%0D%0A`` (HTML "Multipart form data"); older clients write a quote as ``\"``; some send
``filename*`` (RFC 8187), which then counts. A backslash before a quote that ends the value (``filename="a\"``) is a backslash.

What must stay true: a name that leaves this module holds no control character, and a file's name is one segment of a path,
neither ``.`` nor ``..``. That is why an encoded line break stays encoded: a browser's form is taken, and nobody behind
us meets a line break in a name. What could be read in two ways is refused: a parameter or a field that is given twice.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from relay.errors import FormInvalid

NAME_CHARACTERS: Final = 1_024
TYPE_CHARACTERS: Final = 255

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(
    rf"""[ \t]*;[ \t]*(?:(?P<name>{_WORD})=(?:"(?P<quoted>(?:[^"\\]|\\"(?![ \t]*(?:;|\Z))|\\)*+)"|(?P<plain>[^\s";]+)))?"""
)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]", re.ASCII)
_MEDIA_TYPE = re.compile(rf"{_WORD}/{_WORD}")
_EXTENDED = re.compile(
    r"(?P<charset>utf-8|iso-8859-1)'[^']*'(?P<value>(?:[!#$&+\-.^_`|~0-9A-Za-z]|%[0-9A-Fa-f]{2})*)", re.IGNORECASE | re.ASCII
)
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary"})
_MEANT_ONCE = frozenset({"content-disposition", "content-type", "content-transfer-encoding"})


@dataclass(frozen=True, slots=True)
class PartHead:
    """What the head of a part says. A file is what has a ``filename``, be it empty; then ``filename`` is ``None`` here."""

    name: str
    is_file: bool
    filename: str | None
    content_type: str | None
    charset: str | None


def is_form(content_type: str | None) -> bool:
    """True for a body that says it is a form with files."""
    return (content_type or "").partition(";")[0].strip().lower() == "multipart/form-data"


def parse_boundary(content_type: str) -> bytes:
    """The boundary that the Content-Type of a form names.

    Raises:
        FormInvalid: it is no form's type, or names no boundary or no good one.
    """
    if not is_form(content_type):
        raise FormInvalid("The body is no form: its Content-Type is not multipart/form-data.")
    boundary = _parse_parameters(content_type, "The request's Content-Type")[1].get("boundary")
    if boundary is None:
        raise FormInvalid("The Content-Type of the form has no boundary.")
    if not _BOUNDARY.fullmatch(boundary):
        raise FormInvalid("The boundary of the form is not 1 to 70 of the characters that RFC 2046 permits.")
    return boundary.encode("ascii")


def parse_part_head(lines: Sequence[tuple[str, str]]) -> PartHead:
    """Read the head of a part from its lines, as names and values.

    Raises:
        FormInvalid: it is not the head of a part of a form, or says something twice.
    """
    fields: dict[str, str] = {}
    for raw_name, raw_value in lines:
        name, value = raw_name.lower(), raw_value.strip(" \t")
        if name in _MEANT_ONCE and name in fields:
            raise FormInvalid(f"A part has two {raw_name} fields.")
        if _has_control(value.replace("\t", " ")):
            raise FormInvalid("A part has a control character in its head.")
        fields[name] = value
    if fields.get("content-transfer-encoding", "binary").lower() not in _PLAIN_ENCODINGS:
        raise FormInvalid("A part is sent with a Content-Transfer-Encoding. Send its content as it is.")
    name, filename = _parse_disposition(fields.get("content-disposition"))
    content_type, charset = _parse_type(fields.get("content-type", ""))
    if filename is None and content_type is not None and content_type.lower().startswith("multipart/"):
        raise FormInvalid("A part holds a form of its own (multipart/mixed). Send each file as a part of the form itself.")
    return PartHead(name, filename is not None, filename or None, content_type, charset)


def _parse_disposition(value: str | None) -> tuple[str, str | None]:
    if value is None:
        raise FormInvalid("A part has no Content-Disposition.")
    kind, given = _parse_parameters(value, "The Content-Disposition of a part")
    if kind != "form-data":
        raise FormInvalid("The Content-Disposition of a part is not form-data.")
    if any(parameter.startswith(("name*", "filename*")) for parameter in given.keys() - {"name*", "filename*"}):
        raise FormInvalid("A name is sent in pieces (RFC 2231). Send it whole.")
    name = _find_name(given, "name")
    if not name:
        raise FormInvalid("A part has no name.")
    filename = _find_name(given, "filename")
    if filename is not None:
        filename = re.split(r"[/\\]", filename)[-1]
        if filename in {".", ".."}:
            raise FormInvalid("A file's name is a dot segment.")
    return name, filename


def _find_name(given: dict[str, str], parameter: str) -> str | None:
    """One of the two names of a part. Its extended form counts where both are given (RFC 6266 "Disposition Parameter: 'Filename'")."""
    extended = given.get(f"{parameter}*")
    name = _unescape(given[parameter]) if parameter in given else None
    if extended is not None:
        name = _parse_extended(extended)
    if name is not None and (len(name) > NAME_CHARACTERS or _has_control(name)):
        raise FormInvalid(f"A name is longer than {NAME_CHARACTERS} characters or has a control character in it.")
    return name


def _unescape(value: str) -> str:
    if '\\"' in value:
        return value.replace("\\\\", "\\").replace('\\"', '"')
    return value.replace("%22", '"')


def _parse_extended(value: str) -> str:
    found = _EXTENDED.fullmatch(value)
    try:
        if found is not None:
            return unquote_to_bytes(found["value"]).decode(found["charset"])
    except UnicodeDecodeError:
        pass
    raise FormInvalid("A name that is sent in the extended form is not as RFC 8187 has it: UTF-8''<percent-encoded>.")


def _parse_type(value: str) -> tuple[str | None, str | None]:
    """The type of a part, as it was sent, and its charset. An empty one is none."""
    if not value:
        return None, None
    kind, given = _parse_parameters(value, "The Content-Type of a part")
    if len(value) > TYPE_CHARACTERS or not (value.isascii() and value.isprintable()) or not _MEDIA_TYPE.fullmatch(kind):
        raise FormInvalid(f"The Content-Type of a part is no media type of at most {TYPE_CHARACTERS} ASCII characters.")
    return value, given.get("charset")


def _parse_parameters(value: str, where: str) -> tuple[str, dict[str, str]]:
    """Split at semicolons: what stands before the first one, in lower case, and the parameters by lower-case name, still escaped."""
    value = value.rstrip(" \t")
    kind = value.partition(";")[0]
    at, given = len(kind), dict[str, str]()
    while at < len(value):
        found = _PARAMETER.match(value, at)
        if found is None:
            raise FormInvalid(f"{where} cannot be read: its parameters are not name=value between semicolons.")
        at = found.end()
        if (name := (found["name"] or "").lower()) in given:
            raise FormInvalid(f"{where} has one parameter twice.")
        if name:
            given[name] = found["quoted"] if found["plain"] is None else found["plain"]
    return kind.strip(" \t").lower(), given


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(character) == "Cc" for character in text)
