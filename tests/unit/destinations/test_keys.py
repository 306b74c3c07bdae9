"""Keys of objects: what a template may be, what a client's path may be, and that no combination leads out of the destination."""

import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.keys import KeyTemplate, Name, check_segments
from relay.errors import PathInvalid

AT = datetime(2026, 3, 1, 4, 5, 6, tzinfo=UTC)


def key(template: str, segments: tuple[str, ...], filename: str | None = None) -> str:
    return KeyTemplate(template).make(Name(segments, filename, "0193", AT))


@pytest.mark.parametrize(
    "segments",
    [
        (),
        ("",),
        ("a", ""),
        ("", "a"),
        ("a", "", "b"),
        (".",),
        ("..",),
        ("a", "..", "b"),
        ("a/b",),
        ("a\\b",),
        ("/etc", "passwd"),
        ("a\x00b",),
        ("a\nb",),
        ("a\x7f",),
        ("a\x85",),
        ("a\udcff",),
        ("x" * 256,),
        ("é" * 128,),
        ("a",) * 65,
        ("x" * 200,) * 11,
    ],
)
def test_what_is_no_plain_path_of_a_file_is_refused(segments: tuple[str, ...]) -> None:
    with pytest.raises(PathInvalid):
        check_segments(segments)


@pytest.mark.parametrize("segment", ["a", "a b", "…", "é" * 127, "x" * 255, ".hidden", "...", "-rf", "~", "a:b", "CON", "%2e%2e"])
def test_odd_but_plain_names_are_taken(segment: str) -> None:
    check_segments(("folder", segment))


@given(st.text(min_size=1, max_size=300))
def test_a_name_that_is_taken_is_one_component_for_every_file_system(segment: str) -> None:
    try:
        check_segments((segment,))
    except PathInvalid:
        return
    assert segment not in {".", ".."}
    assert not set(segment) & {"/", "\\", "\0"}
    assert not any(unicodedata.category(character) == "Cc" for character in segment)
    assert 0 < len(segment.encode()) <= 255


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{path}", "a/b.txt"),
        ("in/{path}", "in/a/b.txt"),
        ("{path}.part", "a/b.txt.part"),
        ("{filename}", "b.txt"),
        ("{upload_id}/{filename}", "0193/b.txt"),
        ("{date:%Y/%m/%d}/{path}", "2026/03/01/a/b.txt"),
        ("{date:%Y}-{date:%H%M%S.%j}/{upload_id}", "2026-040506.060/0193"),
        ("{path}-{path}", "a/b.txt-a/b.txt"),
    ],
)
def test_a_template_is_filled_in(template: str, expected: str) -> None:
    assert key(template, ("a", "b.txt")) == expected


@pytest.mark.parametrize(
    ("template", "segments", "expected"),
    [
        ("{path}", ("a",), "a/c d.txt"),
        ("{path}", ("a", ""), "a/c d.txt"),
        ("{path}", ("",), "c d.txt"),
        ("{path}", (), "c d.txt"),
        ("{path}.bin", ("a",), "a/c d.txt.bin"),
        ("{filename}", ("a",), "c d.txt"),
        ("{path}/{filename}", ("a",), "a/c d.txt"),
        ("{upload_id}-{filename}", (), "0193-c d.txt"),
    ],
)
def test_a_file_of_a_form_lies_below_the_path_unless_the_template_names_it(template: str, segments: tuple[str, ...], expected: str) -> None:
    named = Name.of(segments, "c d.txt", "0193")
    assert KeyTemplate(template).make(named) == expected


@pytest.mark.parametrize(
    "template",
    [
        "",
        "fixed",
        "{date:%Y}",
        "{path",
        "path}",
        "{path}}",
        "{{path}}",
        "{}",
        "{name}",
        "{path!r}",
        "{path:>9}",
        "{date}",
        "{date:}",
        "{date:%c}",
        "{date:%Y %m}",
        "{date:%}",
        "{date:../%Y}{path}",
        "/{path}",
        "../{path}",
        "a//{path}",
        "{path}/",
        "./{path}",
        "a\\{path}",
        "a\0{path}",
    ],
)
def test_a_template_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"use|leave"):
        KeyTemplate(template)


@pytest.mark.parametrize(
    ("template", "segments", "filename"),
    [
        ("x{path}", ("../up",), None),
        ("x{path}x", ("",), None),
        ("{path}", ("a", ""), None),
        (".{filename}", ("a",), "."),
        ("{filename}", ("a",), ".."),
        ("{filename}", ("a",), "../b"),
        ("{filename}", ("a",), "b\\c"),
        ("{filename}", ("a",), ""),
        ("{filename}", ("..",), "b"),
        ("{filename}", ("a", "", "b"), "c"),
        ("{upload_id}", ("..",), None),
        ("{path}", ("x" * 200,) * 9, "y" * 250),
        ("{path}x", ("x" * 255,), None),
    ],
)
def test_nothing_hides_behind_a_template(template: str, segments: tuple[str, ...], filename: str | None) -> None:
    with pytest.raises(PathInvalid):
        key(template, segments, filename)


def test_a_value_that_looks_like_a_variable_is_not_filled_in_again() -> None:
    assert key("{path}/{filename}", ("{filename}",), "{upload_id}") == "{filename}/{upload_id}"


@given(
    st.lists(st.text(max_size=20), max_size=4),
    st.none() | st.text(max_size=20),
    st.sampled_from(["{path}", "in/{filename}", "{upload_id}.{filename}"]),
)
def test_a_key_is_always_a_plain_relative_path(segments: list[str], filename: str | None, template: str) -> None:
    try:
        made = KeyTemplate(template).make(Name.of(tuple(segments), filename, "0193"))
    except PathInvalid:
        return
    check_segments(made.split("/"))
    assert made.startswith(template.partition("{")[0])
