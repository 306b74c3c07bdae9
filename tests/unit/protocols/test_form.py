"""Forms: one reading of each, however it is cut; nothing of a form that breaks is whole; no input costs more than in proportion to it."""

import email.parser
import email.policy
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.destinations.form_parts import JOINED_BYTES
from relay.errors import FormInvalid
from relay.protocols.form import PREAMBLE_BYTES, FormParser
from relay.settings import FormSettings
from tests.support.forms import DEFAULT_TYPE, ReadForm, Row, cut, read_form, rows_of
from tests.support.work import CountedBytes, work_of

ROOT: Final = Path(__file__).parents[3]
ROWS: Final = [*rows_of("forms.toml"), *rows_of("recorded_forms.toml")]
SMALL_BYTES: Final = 2_000
HEAD: Final = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
FILE_HEAD: Final = b'--B\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n'
END: Final = b"--B--\r\n"


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_form_is_read_as_its_row_says_however_it_is_cut(row: Row) -> None:
    sizes = (1 << 20, 4096, *((7, 3, 2, 1) if len(row.body) < SMALL_BYTES else ()))
    for size in sizes:
        form = read_form(row.content_type, cut(row.body, size), row.limits)
        if row.refused is None:
            assert form == ReadForm(row.files, row.fields), f"cut in pieces of {size}"
        else:
            assert form.refusal is not None, f"cut in pieces of {size}"
            assert row.refused in form.refusal


def test_a_refusal_has_a_code_and_says_nothing_of_what_was_sent() -> None:
    assert FormInvalid.code == "form_invalid"
    body = FILE_HEAD.replace(b'"\r\n', b'"; secret\r\n') % (b"secret", b"secret")
    refusal = read_form(DEFAULT_TYPE, [body]).refusal
    assert refusal is not None
    assert "secret" not in refusal


def test_a_form_that_is_cut_anywhere_is_refused_and_its_last_file_is_not_whole() -> None:
    body = b"--\r\n" + HEAD % b"a" + b"1\r\n" + FILE_HEAD % (b"f", b"x") + b"\r\n--\r\n" + FILE_HEAD % (b"g", b"") + b"y\r\n" + END
    whole = read_form(DEFAULT_TYPE, [body])
    assert whole.refusal is None
    assert [file.content for file in whole.files] == [b"\r\n--", b"y"]
    for length, size in itertools.product(range(len(body) - 2), (1 << 20, 1)):
        form = read_form(DEFAULT_TYPE, cut(body[:length], size))
        assert form.refusal is not None, f"cut at {length}"
        files = [file for file in form.files if file.is_whole]
        assert files == whole.files[: len(files)]
        assert form.fields == whole.fields[: len(form.fields)]
        for file, broken in zip(whole.files, form.files, strict=False):
            assert file.content.startswith(broken.content)


def test_large_content_is_handed_on_without_a_copy() -> None:
    parser = FormParser(DEFAULT_TYPE, FormSettings())
    content = b"0123456789\r\n--A" * 1000
    list(parser.feed(FILE_HEAD % (b"f", b"a")))
    events = [event for _ in range(50) for event in parser.feed(content)]
    assert len(events) == 50
    assert all(event is content for event in events)


def test_the_other_package_of_this_name_is_not_installed() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        assert "python-multipart" not in (ROOT / lock).read_text(encoding="utf-8").lower(), "it answers to 'import multipart', too"


# ── Any form, cut anywhere. ──

NAMES: Final = st.text(st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters='/\\"%'), min_size=1, max_size=20)
CONTENTS: Final = st.one_of(
    st.binary(max_size=60), st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"A", b"\r\n"]), max_size=12).map(b"".join)
)
PLACES: Final = st.lists(st.integers(min_value=0, max_value=4_000), max_size=60)


def cut_at(body: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    return [body[start:end] for start, end in itertools.pairwise(edges)]


@given(
    parts=st.lists(st.tuples(NAMES, st.one_of(st.none(), NAMES, st.just("")), CONTENTS), max_size=6),
    before=st.sampled_from([b"", b"\r\n", b"x\r\n--\r\n"]),
    after=st.sampled_from([b"", b"\r\n", b"\r\n--B\r\nx"]),
    places=PLACES,
)
def test_any_segmentation_gives_the_same_form(
    parts: list[tuple[str, str | None, bytes]], before: bytes, after: bytes, places: list[int]
) -> None:
    body, files, fields = before, [], []
    for name, filename, content in parts:
        if filename is None:
            text = content.decode("latin-1")
            body += HEAD % name.encode() + text.encode() + b"\r\n"
            fields.append((name, text))
        else:
            body += FILE_HEAD % (name.encode(), filename.encode()) + content + b"\r\n"
            if (filename or content) and filename not in {".", ".."}:
                files.append((name, filename or None, content))
    form = read_form(DEFAULT_TYPE, cut_at(body + b"--B--" + after, places))
    if any(filename in {".", ".."} for _, filename, _ in parts):
        assert form.refusal is not None
        return
    assert form.refusal is None
    assert [(file.field, file.filename, file.content) for file in form.files] == files
    assert form.fields == fields


FRAGMENTS: Final = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"--B", b"--B\r\n", b"--B--", b"-", b'"', b"\\", b";", b":", b"=", b" ", b"\0", b"name", b"filename*=", b"\xff"]
)


@given(
    row=st.sampled_from([row for row in ROWS if len(row.body) < SMALL_BYTES]),
    changes=st.lists(st.tuples(st.integers(min_value=0, max_value=SMALL_BYTES), FRAGMENTS, st.booleans()), max_size=4),
    places=PLACES,
)
def test_a_form_that_is_damaged_is_refused_or_read_one_way(row: Row, changes: list[tuple[int, bytes, bool]], places: list[int]) -> None:
    body = row.body
    for place, fragment, is_put_in in changes:
        at = place % (len(body) + 1)
        body = body[:at] + fragment + body[at if is_put_in else at + len(fragment) :]
    at_once, cut_up = (read_form(row.content_type, pieces, row.limits) for pieces in ([body], cut_at(body, places)))
    assert (at_once.refusal is None) == (cut_up.refusal is None)
    assert [file for file in at_once.files if file.is_whole] == [file for file in cut_up.files if file.is_whole]
    assert at_once.fields == cut_up.fields


# ── Beside others: one that writes forms, one that reads them. ──


@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, NAMES.filter(lambda name: name not in {".", ".."}), CONTENTS), max_size=5))
def test_what_httpx_writes_is_read_as_it_was_meant(files: list[tuple[str, str, bytes]]) -> None:
    request = httpx.Request("POST", "http://a/", files=[(field, (name, content)) for field, name, content in files], data={"a": 'b"c'})
    if not files:
        return
    form = read_form(request.headers["content-type"], cut(request.read(), 50))
    assert form.refusal is None
    assert [(file.field, file.filename, file.content) for file in form.files] == files
    assert form.fields == [("a", 'b"c')]


@given(
    st.lists(
        st.tuples(st.text("abc;=' ", min_size=1, max_size=8), st.text("xyz;.", min_size=3, max_size=8), st.binary(max_size=40)), max_size=5
    )
)
def test_the_parser_of_mail_reads_the_same(files: list[tuple[str, str, bytes]]) -> None:
    files = [(field, name, content.replace(b"--", b"")) for field, name, content in files]
    body = b"".join(FILE_HEAD % (field.encode(), name.encode()) + content + b"\r\n" for field, name, content in files) + END
    mail = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(f"Content-Type: {DEFAULT_TYPE}\r\n\r\n".encode() + body)
    theirs = [
        (part.get_param("name", header="content-disposition"), part.get_filename(), part.get_payload(decode=True))
        for part in mail.walk()
        if not part.is_multipart()
    ]
    ours = [(file.field, file.filename, file.content) for file in read_form(DEFAULT_TYPE, [body]).files]
    assert ours == files
    assert not files or ours == theirs


# ── What an attacker can make us spend. ──

HOSTILE: Final[dict[str, Callable[[int], bytes]]] = {
    "files": lambda n: (FILE_HEAD % (b"f", b"a") + b"\r\n") * n,
    "fields": lambda n: (HEAD % b"a" + b"\r\n") * n,
    "content like boundaries": lambda n: FILE_HEAD % (b"f", b"a") + b"\r\n--\r\n-" * (240 * n),
    "carriage returns": lambda n: FILE_HEAD % (b"f", b"a") + b"\r" * (1600 * n),
    "a large field": lambda n: HEAD % b"a" + b"x" * (1600 * n),
    "an epilogue": lambda n: END + b"\r\n--B\r\n" * (240 * n),
    "parameters": lambda n: b"--B\r\nContent-Disposition: form-data" + b"".join(b";p%d=x" % number for number in range(n)),
    "many lines": lambda n: ((HEAD % b"a").removesuffix(b"\r\n") + b"X: y\r\n" * 28 + b"\r\nx\r\n") * n,
    "long lines": lambda n: ((HEAD % b"a").removesuffix(b"\r\n") + b"X: " + b"y" * 8000 + b"\r\n\r\nx\r\n") * n,
}
MANY: Final = FormSettings.model_validate({"max_files": 100_000, "max_fields": 100_000, "max_field_bytes": 1 << 26})


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_with_the_bytes_and_no_faster(name: str) -> None:
    def work(count: int) -> int:
        parser = FormParser(DEFAULT_TYPE, MANY)
        with work_of("multipart.py", "form.py", "form_heads.py") as spent:
            for chunk in cut(HOSTILE[name](count), JOINED_BYTES):
                assert all(True for _ in parser.feed(CountedBytes.of(chunk, spent)))
        return spent.units

    least, most = work(10), work(80)
    assert most <= 16 * least  # eight times the bytes; were it in proportion to their square, it were 64 times the work


ENDLESS: Final = {
    "a preamble": (b"", b"p" * 4096),
    "lines of a preamble": (b"", b"--A\r\n" * 800),
    "a head": (b"--B\r\n", b"X: " + b"y" * 997 + b"\r\n"),
    "a line of a head": (b"--B\r\n", b"y" * 4096),
    "a fold": (HEAD.removesuffix(b"\r\n") % b"a", b" y\r\n" * 1000),
    "a field": (HEAD % b"a", b"y" * 4096),
    "fields": (b"", (HEAD % b"a" + b"\r\n") * 50),
    "files": (b"", (FILE_HEAD % (b"f", b"a") + b"\r\n") * 50),
    "inputs without files": (b"", (FILE_HEAD % (b"f", b"") + b"\r\n") * 50),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_refused_before_it_takes_memory(name: str) -> None:
    first, again = ENDLESS[name]
    parser = FormParser(DEFAULT_TYPE, FormSettings())
    tracemalloc.start()
    try:
        with pytest.raises(FormInvalid):  # noqa: PT012 - whichever of the chunks it is
            for _ in parser.feed(first):
                pass
            for _ in range(10_000):
                assert all(True for _ in parser.feed(again))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_preamble_is_searched_once_however_it_comes() -> None:
    parser = FormParser(DEFAULT_TYPE, FormSettings())
    for byte in cut(b"p" * PREAMBLE_BYTES + b"\r\n" + HEAD % b"a" + b"1\r\n" + END, 1):
        assert not list(parser.feed(byte))
    parser.end()
    assert parser.fields == [("a", "1")]
