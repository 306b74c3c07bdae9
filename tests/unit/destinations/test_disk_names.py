"""Names of objects on disk: what is refused before the disk is asked."""

import pytest

from relay.destinations.disk_names import TEMP_FOLDER, check_file_names, folder_segments
from relay.errors import DestinationMisconfigured, PathInvalid


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
            check_file_names(segments)


@pytest.mark.parametrize(("directory", "segments"), [("", ()), (".", ()), ("a", ("a",)), ("a/b/", ("a", "b"))])
def test_a_directory_is_cut_into_segments(directory: str, segments: tuple[str, ...]) -> None:
    assert folder_segments(directory) == segments


@pytest.mark.parametrize("directory", ["/etc", "..", "a/../../b", "a//b", ".relay-tmp", "a\x00", "/"])
def test_a_directory_that_leaves_the_root_is_a_misconfiguration(directory: str) -> None:
    with pytest.raises(DestinationMisconfigured):
        folder_segments(directory)
