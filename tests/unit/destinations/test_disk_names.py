"""Names of objects on disk: what is refused before the disk is asked."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.destinations.disk_names import TEMP_FOLDER, check_segments, folder_segments, object_segments
from relay.errors import DestinationMisconfigured, PathInvalid


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


@pytest.mark.parametrize(
    "segment",
    [
        TEMP_FOLDER,
        TEMP_FOLDER.upper(),
        ".Relay-Tmp",
        f"{TEMP_FOLDER}-probe-0",
        ".relay\u200b-tmp",
        ".\ufeffrelay-tmp",
        "\uff0erelay-tmp",
        ".relay-\uff34mp",
        ".relay\ufe63tmp",
    ],
)
def test_no_spelling_of_the_temporary_folder_is_taken(segment: str) -> None:
    for segments in [(segment,), (segment, "a"), ("a", segment)]:
        with pytest.raises(PathInvalid):
            check_segments(segments)


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


def test_the_key_template_places_the_path() -> None:
    assert object_segments("in/{path}", ("a", "b.txt")) == ("in", "a", "b.txt")
    assert object_segments("{path}.part", ("a", "b.txt")) == ("a", "b.txt.part")


def test_a_path_cannot_hide_behind_the_key_template() -> None:
    with pytest.raises(PathInvalid):
        object_segments("x{path}", ("../up",))
    with pytest.raises(PathInvalid):
        object_segments("x{path}x", ("",))
    with pytest.raises(PathInvalid):
        object_segments(".relay-{path}", ("tmp",))


def test_a_path_that_holds_the_placeholder_is_not_replaced_again() -> None:
    assert object_segments("{path}", ("{path}",)) == ("{path}",)


@pytest.mark.parametrize(("directory", "segments"), [("", ()), (".", ()), ("a", ("a",)), ("a/b/", ("a", "b"))])
def test_a_directory_is_cut_into_segments(directory: str, segments: tuple[str, ...]) -> None:
    assert folder_segments(directory) == segments


@pytest.mark.parametrize("directory", ["/etc", "..", "a/../../b", "a//b", ".relay-tmp", "a\x00", "/"])
def test_a_directory_that_leaves_the_root_is_a_misconfiguration(directory: str) -> None:
    with pytest.raises(DestinationMisconfigured):
        folder_segments(directory)
