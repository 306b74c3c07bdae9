"""Forms as data: the rows of ``tests/vectors/forms.toml`` and what is read of them."""

import base64
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from relay.errors import FormInvalid
from relay.protocols.form import FileEnd, FileHead, FormEvent, FormParser
from relay.settings import FormSettings
from tests.support.readings import bytes_of, expanded

DEFAULT_TYPE: Final = "multipart/form-data; boundary=B"
VECTORS: Final = Path(__file__).parent.parent / "vectors"


@dataclass
class ReadFile:
    """A file as it was read; whole when its end came."""

    field: str
    filename: str | None
    content_type: str | None
    content: bytes = b""
    is_whole: bool = False


@dataclass
class ReadForm:
    """What was read of a form, and the detail of the refusal with which it ended, if it did."""

    files: list[ReadFile] = field(default_factory=list)
    fields: list[tuple[str, str]] = field(default_factory=list)
    refusal: str | None = None

    def take(self, event: FormEvent) -> None:
        """Note an event, and that it comes in its order."""
        is_within = bool(self.files) and not self.files[-1].is_whole
        assert is_within != isinstance(event, FileHead)
        if isinstance(event, FileHead):
            self.files.append(ReadFile(event.field, event.filename, event.content_type))
        elif isinstance(event, FileEnd):
            self.files[-1].is_whole = True
        else:
            assert event, "content is never empty"
            self.files[-1].content += event


@dataclass(frozen=True)
class Row:
    """A form and what is to be read of it."""

    name: str
    content_type: str
    body: bytes
    files: list[ReadFile]
    fields: list[tuple[str, str]]
    refused: str | None
    limits: FormSettings

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """Read a row; what it says in a key that nobody knows is an error."""
        row = dict(row)
        text, coded = row.pop("text", None), row.pop("base64", None)
        charset = "latin-1" if text is None else "utf-8"
        body = bytes_of(text if text is not None else row.pop("body", ""), charset) if coded is None else base64.b64decode(coded)
        made = cls(
            name=row.pop("name"),
            content_type=expanded(row.pop("type", DEFAULT_TYPE)),
            body=body,
            files=[
                ReadFile(expanded(file["field"]), file.get("filename"), file.get("type"), bytes_of(file["content"], charset), is_whole=True)
                for file in row.pop("files", [])
            ],
            fields=[(expanded(name), expanded(value)) for name, value in row.pop("fields", [])],
            refused=row.pop("refused", None),
            limits=FormSettings.model_validate(row.pop("limits", {})),
        )
        assert not row, f"unknown keys in {made.name!r}: {list(row)}"
        return made


def rows_of(name: str) -> list[Row]:
    """The rows of a table of forms."""
    return [Row.of(row) for row in tomllib.loads((VECTORS / name).read_text(encoding="utf-8"))["form"]]


def cut(body: bytes, size: int) -> Iterator[bytes]:
    """The body in pieces of this size."""
    return (body[start : start + size] for start in range(0, len(body), size))


def read_form(content_type: str, chunks: Iterable[bytes], limits: FormSettings | None = None) -> ReadForm:
    """Feed these chunks to a parser."""
    form = ReadForm()
    try:
        parser = FormParser(content_type, limits or FormSettings())
        form.fields = parser.fields
        for chunk in chunks:
            for event in parser.feed(chunk):
                form.take(event)
        parser.end()
    except FormInvalid as fault:
        form.refusal = fault.detail
    return form
