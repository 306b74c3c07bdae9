"""The files of a form out of a body: in order, whole or an error, and in few pieces however many the body came in."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Final

import pytest

from relay.destinations.form_parts import JOINED_BYTES, FormReader
from relay.errors import BodyIncomplete, ClientGone, FormInvalid
from relay.settings import FormSettings
from relay.wire.pieces import Scattered, Take
from tests.support.bodies import ScriptedBody
from tests.support.forms import DEFAULT_TYPE, cut
from tests.support.work import work_of

LIMITS: Final = FormSettings()


def file_of(filename: str, content: bytes, field: str = "f") -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n\r\n'.encode() + content + b"\r\n"


def field_of(name: str, value: str) -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


END: Final = b"--B--\r\n"
FORM: Final = field_of("a", "1") + file_of("x", b"first") + field_of("b", "2") + file_of("y", b"second") + field_of("c", "3") + END


class ViewingBody:
    """A body that gives views of one buffer, as the wire does, and whose last pour before a pause ends only after its piece was taken."""

    is_at_hand = False
    is_claimed = False
    declared_bytes = None

    def __init__(self, chunks: Iterable[bytes], *, pause: asyncio.Event | None = None, is_scattered: bool = False) -> None:
        self._chunks = list(chunks)
        self._is_scattered = is_scattered
        self._pause = pause

    def leave_digests(self, names: Collection[str]) -> None:
        """It takes none anyway."""

    def judge(self, taken: Mapping[str, bytes]) -> None:
        """Nothing was claimed."""

    async def pour(self, take: Take) -> bool:
        """Give the chunks until ``take`` says that it takes no more; wait then, once, where there is a pause."""
        while self._chunks:
            buffer = bytearray(self._chunks.pop(0))
            view, middle = memoryview(buffer), len(buffer) // 2
            wants_more = take(Scattered([view[:middle], view[middle:]]) if self._is_scattered else view)
            buffer[:] = b"?" * len(buffer)
            if not wants_more:
                if self._pause is not None:
                    await self._pause.wait()
                return False
        return True

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


def reader_of(*chunks: bytes, fault: BaseException | None = None) -> FormReader:
    return FormReader(ScriptedBody(chunks, fault=fault), DEFAULT_TYPE, LIMITS)


async def taken(form: FormReader) -> list[tuple[str, str | None, bytes]]:
    return [(part.field, part.filename, b"".join([chunk async for chunk in part])) async for part in form.files()]


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
async def test_files_come_in_their_order_and_fields_beside_them(size: int) -> None:
    form = reader_of(*cut(FORM, size))
    assert form.fields == []
    assert await taken(form) == [("f", "x", b"first"), ("f", "y", b"second")]
    assert form.fields == [("a", "1"), ("b", "2"), ("c", "3")]


async def test_nothing_is_asked_of_the_body_before_the_files_are() -> None:
    body = ScriptedBody([FORM])
    with pytest.raises(FormInvalid):
        FormReader(body, "multipart/form-data", LIMITS)
    FormReader(body, DEFAULT_TYPE, LIMITS)
    assert not body.is_asked


async def test_a_file_that_is_not_read_is_skipped() -> None:
    large = file_of("large", b"x" * 100_000)
    form = reader_of(*cut(large + FORM, 10_000))
    names = []
    async for part in form.files():
        names.append(part.filename)
        if part.filename == "large":
            assert await anext(part)
    assert names == ["large", "x", "y"]


async def test_the_body_is_read_to_its_end_behind_the_form() -> None:
    body = ScriptedBody([FORM, *[b"e" * 50_000] * 5])
    assert len(await taken(FormReader(body, DEFAULT_TYPE, LIMITS))) == 2
    assert body.has_given_all.is_set()
    form = reader_of(FORM, fault=BodyIncomplete())
    with pytest.raises(BodyIncomplete):
        await taken(form)


async def test_a_file_is_yielded_before_the_rest_of_it_has_come() -> None:
    gate = asyncio.Event()
    begun = file_of("x", b"x" * 20_000).removesuffix(b"\r\n")
    form = FormReader(ScriptedBody([begun], gate=gate, fault=ClientGone()), DEFAULT_TYPE, LIMITS)
    part = await anext(form.files())
    assert len(await anext(part)) == 20_000
    gate.set()
    with pytest.raises(ClientGone):
        await anext(part)


@pytest.mark.parametrize("fault", [None, ClientGone(), BodyIncomplete()], ids=["ends", "gone", "incomplete"])
@pytest.mark.parametrize("length", range(len(file_of("x", b"")) - 2, len(FORM) - len(field_of("a", "1")) - 4, 17))
async def test_a_form_that_breaks_raises_out_of_the_file_and_ever_after(fault: BaseException | None, length: int) -> None:
    whole = FORM.removeprefix(field_of("a", "1"))
    form = reader_of(*cut(whole[:length], 7), fault=fault)
    expected = FormInvalid if fault is None else type(fault)
    ended: list[str | None] = []
    part = None
    with pytest.raises(expected):  # noqa: PT012 - whichever reading it is
        async for part in form.files():
            async for _ in part:
                pass
            ended.append(part.filename)
    assert ended == ["x", "y"][: whole[:length].count(b"\r\n--B\r\n", whole.index(b"first"))][: len(ended)]
    for _ in range(2):
        with pytest.raises(expected):
            await anext(form.files())
        if part is not None and part.filename not in ended:
            with pytest.raises(expected):
                await anext(part)


async def test_a_malformed_form_raises_out_of_the_file_and_ever_after() -> None:
    form = reader_of(file_of("x", b"first") + b"--Bad")
    part = await anext(form.files())
    with pytest.raises(FormInvalid):
        [chunk async for chunk in part]
    with pytest.raises(FormInvalid):
        [chunk async for chunk in part]


async def test_a_form_that_comes_byte_by_byte_is_parsed_in_large_pieces() -> None:
    content = b"x" * 20_000
    form = FormReader(ViewingBody(cut(file_of("x", content) + END, 1)), DEFAULT_TYPE, LIMITS)
    part = await anext(form.files())
    chunks = [chunk async for chunk in part]
    assert b"".join(chunks) == content
    assert len(chunks) <= len(content) / JOINED_BYTES + 2


async def test_bytes_that_come_one_by_one_cost_no_more_than_themselves() -> None:
    async def work(count: int) -> float:
        body = ViewingBody(cut(b"\r\n" + file_of("x", b"\r\n--" * count) + END, 1))
        form = FormReader(body, DEFAULT_TYPE, LIMITS)
        with work_of("multipart.py", "form.py", "form_heads.py", "form_parts.py") as spent:
            await taken(form)
        return spent.units / (4 * count)

    least, most = await work(1_000), await work(4_000)
    assert most <= least * 1.1
    assert most < 100


@pytest.mark.parametrize("is_scattered", [False, True], ids=["in_one", "scattered"])
@pytest.mark.parametrize("size", [100, JOINED_BYTES, 3 * JOINED_BYTES])
async def test_what_is_yielded_outlives_the_buffer_that_it_came_in(size: int, is_scattered: bool) -> None:
    content = bytes(range(256)) * 1_000
    form = FormReader(ViewingBody(cut(file_of("x", content) + END, size), is_scattered=is_scattered), DEFAULT_TYPE, LIMITS)
    assert await taken(form) == [("f", "x", content)]


@pytest.mark.parametrize("size", [1_000, 3 * JOINED_BYTES])
async def test_a_reading_that_was_cancelled_loses_nothing(size: int) -> None:
    content = bytes(range(256)) * 1_000
    pause = asyncio.Event()
    form = FormReader(ViewingBody(cut(file_of("x", content) + END, size), pause=pause), DEFAULT_TYPE, LIMITS)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(form.files()), 0.01)
    pause.set()
    assert await taken(form) == [("f", "x", content)]
