"""A form (multipart/form-data, RFC 7578) read as it streams. Bytes in, events out; no I/O.

The library ``multipart`` finds the parts and hands on their content without copying it; ``form_heads`` reads their heads.
Here is the order of things: what comes before the first part, which part is a file and which a field, and the bounds.

    FormParser.feed   FileHead, bytes…, FileEnd, once for each file, in the order of the form
    FormParser.fields the plain fields seen so far; they make no events

Files are never held: memory is bounded by ``FormSettings``, whatever comes. A form that breaks raises before the end of the
file in which it breaks, so no file that ended is a part of one that was sent. An input in which no file was
chosen (an empty name and no content: HTML "Constructing the entry list") is no file, and counts against the bound.

Not here: where bytes come from, and joining of small chunks (``destinations/form_parts.py``). A call costs time in
proportion to what it is given and to the lines it was left with, which are bounded: feed few large chunks.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser  # python-multipart has none of these

from relay.errors import FormInvalid
from relay.protocols.form_heads import PartHead, parse_boundary, parse_part_head
from relay.settings import FormSettings

PREAMBLE_BYTES: Final = 4 << 10
HEAD_LINES: Final = 32
_CHARSETS: Final = {
    label: codec
    for codec, labels in {
        "utf-8": ("utf-8", "utf8"),
        "ascii": ("us-ascii", "ascii"),
        "iso-8859-1": ("iso-8859-1", "latin1", "latin-1"),
        **{
            name: (name,)
            for name in (
                *("iso-8859-2", "iso-8859-15", "koi8-r", "windows-1250", "windows-1251", "windows-1252", "windows-1254"),
                *("shift_jis", "euc-jp", "gbk", "gb18030", "big5", "euc-kr"),
            )
        },
    }.items()
    for label in labels
}
"""What forms are sent in, by decoders that take time in proportion to the text. The interpreter remembers every name that it is
asked for, so no name of a client's goes there."""


@dataclass(frozen=True, slots=True)
class FileHead:
    """A file begins. ``filename`` is its name without folders, ``None`` where it has none."""

    field: str
    filename: str | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file that began is whole."""


FormEvent = FileHead | bytes | FileEnd


class FormParser:
    """One form. After an error it is not to be fed again."""

    def __init__(self, content_type: str, limits: FormSettings) -> None:
        """Begin a form.

        Raises:
            FormInvalid: the type is no form's, or has no good boundary.
        """
        boundary = parse_boundary(content_type)
        self._delimiter = b"\r\n--" + boundary
        self._preamble = bytearray(b"\r\n")  # so that a boundary at the very beginning is one behind a line end
        self._has_begun = self._has_ended = False
        self._limits = limits
        self._parser = _Splitter(boundary, max_header_size=limits.max_head_bytes, max_header_count=HEAD_LINES, strict=True)
        self._fields = _Fields(limits)
        self._part: _File | _Field | None = None
        self._parts = self._files = 0

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and values of the plain fields that have ended, in their order."""
        return self._fields.ended

    def feed(self, chunk: bytes) -> Iterator[FormEvent]:
        """Read the next bytes. All events are to be taken before the next bytes are fed.

        Raises:
            FormInvalid: this is no form, or more than is permitted.
        """
        if not self._has_begun:
            chunk = self._skip_preamble(chunk)
        if self._has_ended or not chunk:
            return
        try:
            for event in self._parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    self._part = self._begin_part(event)
                    yield from self._part.begin()
                elif self._part is not None and event is not None:
                    yield from self._part.take(event)
                elif self._part is not None:
                    yield from self._part.end()
                    self._part = None
        except MultipartError as error:
            if not self._is_complete():
                raise self._told(error) from None
            self._has_ended = True  # what follows the last boundary means nothing

    def end(self) -> None:
        """The bytes have ended.

        Raises:
            FormInvalid: the form has not.
        """
        if not self._has_begun:
            raise FormInvalid("The body does not hold the boundary that its Content-Type names.")
        if not self._has_ended and not self._is_complete():
            raise FormInvalid("The form ends before its last boundary: it was cut off. Send it again.")

    def _skip_preamble(self, chunk: bytes) -> bytes:
        """What is to be parsed of the chunk; nothing while the first boundary has not come."""
        held = self._preamble
        if held == b"\r\n" and chunk.startswith(self._delimiter[2:]):
            self._has_begun = True
            return chunk
        seen = max(0, len(held) - len(self._delimiter))
        held += chunk
        at = held.find(self._delimiter, seen)
        nearest = len(held) - len(self._delimiter) if at < 0 else at
        if nearest - len(b"\r\n") > PREAMBLE_BYTES:
            raise FormInvalid("The body does not begin with the boundary that its Content-Type names.")
        if at < 0:
            return b""
        self._has_begun = True
        self._preamble = bytearray()
        return bytes(memoryview(held)[at + len(b"\r\n") :])

    def _begin_part(self, segment: MultipartSegment) -> "_File | _Field":
        if sum(len(name) + len(value.encode()) + len(": \r\n") for name, value in segment.headerlist) > self._limits.max_head_bytes:
            raise self._told(ParserLimitReached())
        self._parts += 1
        head = parse_part_head(segment.headerlist)
        if not head.is_file:
            return self._fields.begin(head)
        self._files += 1
        if self._files > self._limits.max_files:
            raise FormInvalid(f"The form has more than {self._limits.max_files} files.")
        return _File(head)

    def _is_complete(self) -> bool:
        """True when the last boundary was read. The library tells it by closing without complaint; nothing can be fed afterwards."""
        try:
            self._parser.close()  # type: ignore[no-untyped-call]  # the package's own gap
        except MultipartError:
            return False
        return True

    def _told(self, error: MultipartError) -> FormInvalid:
        """The library's error in our words: it says where, never what was there."""
        if self._part is not None:
            return FormInvalid(
                f"Part {self._parts} of the form ends badly: no line end or '--' follows the boundary, or its Content-Length is wrong."
            )
        if isinstance(error, ParserLimitReached):
            return FormInvalid(
                f"The head of a part has more than {self._limits.max_head_bytes} bytes or {HEAD_LINES} lines (part {self._parts + 1})."
            )
        return FormInvalid(
            f"The head of part {self._parts + 1} of the form is malformed: behind the boundary come lines of 'Name: value' in UTF-8 "
            "without control characters, each ended by CR LF, none folded, then an empty one."
        )


class _Splitter(PushMultipartParser):
    """The library's parser without its reading of heads; it provides for that."""

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        segment = MultipartSegment([])
        segment.headerlist = headerlist
        return segment


class _File:
    """A file on its way. One without a name is told of when its first byte comes: without any, no file was chosen."""

    def __init__(self, head: PartHead) -> None:
        self._head = FileHead(head.name, head.filename, head.content_type)
        self._is_told = False

    def begin(self) -> Iterable[FormEvent]:
        return self._tell() if self._head.filename is not None else ()

    def take(self, data: bytes) -> Iterable[FormEvent]:
        return (data,) if self._is_told else (*self._tell(), data)

    def end(self) -> Iterable[FormEvent]:
        return (FileEnd(),) if self._is_told else ()

    def _tell(self) -> Iterable[FormEvent]:
        self._is_told = True
        return (self._head,)


class _Fields:
    """The plain fields of a form and their bounds."""

    def __init__(self, limits: FormSettings) -> None:
        self.ended: list[tuple[str, str]] = []
        self._limits = limits
        self._left_bytes = int(limits.max_field_bytes)
        self._charset = "utf-8"
        self._begun = 0

    def begin(self, head: PartHead) -> "_Field":
        self._begun += 1
        if self._begun > self._limits.max_fields:
            raise FormInvalid(f"The form has more than {self._limits.max_fields} plain fields.")
        self.account(len(head.name.encode()))
        return _Field(head, self.account, self._keep)

    def account(self, count: int) -> None:
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise FormInvalid(
                f"The plain fields of the form have more than {int(self._limits.max_field_bytes)} bytes. Send large content as a file."
            )

    def _keep(self, head: PartHead, content: bytearray) -> None:
        """Keep a field's text, in its own charset or the one that the form's field ``_charset_`` has named (RFC 7578)."""
        try:
            text = content.decode(_CHARSETS[head.charset.lower()] if head.charset else self._charset)
            if head.name == "_charset_" and text:
                self._charset = _CHARSETS[text.lower()]
        except (KeyError, UnicodeDecodeError):
            raise FormInvalid("A plain field is not text in UTF-8, or in the charset that the form names and Relay knows.") from None
        self.ended.append((head.name, text))


class _Field:
    """A plain field on its way; it makes no events."""

    def __init__(self, head: PartHead, account: Callable[[int], None], keep: Callable[[PartHead, bytearray], None]) -> None:
        self._head = head
        self._account = account
        self._keep = keep
        self._content = bytearray()

    def begin(self) -> Iterable[FormEvent]:
        return ()

    def take(self, data: bytes) -> Iterable[FormEvent]:
        self._account(len(data))
        self._content += data
        return ()

    def end(self) -> Iterable[FormEvent]:
        self._keep(self._head, self._content)
        return ()
