"""Nothing outside the destination's folder is ever touched, whatever the path and whatever links lie there."""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.destinations import disk_file
from relay.errors import DestinationMisconfigured, ObjectExists, PathInvalid, RelayError
from tests.support.bodies import ScriptedBody, make_item
from tests.support.disks import MakeDisk, disk_config, open_disk, temp_names, tree

NASTY = [
    "..",
    ".",
    "",
    "/",
    "/etc",
    "a\\..\\b",
    "a\x00b",
    "link",
    "file",
    "dangling",
    "loop",
    ".relay-tmp",
    ".RELAY-TMP",
    "~",
    "x" * 256,
    "é" * 200,
]
SEGMENTS = st.lists(st.one_of(st.sampled_from(NASTY), st.text(min_size=1, max_size=8), st.sampled_from(["a", "b"])), max_size=5)


def lay_out(folder: Path) -> tuple[Path, Path]:
    """A root with links that lead out of it, beside an outside that must not change."""
    root, outside = folder / "root", folder / "outside"
    (root / "acme").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious").write_bytes(b"keep")
    (root / "acme/link").symlink_to(outside)
    (root / "acme/dangling").symlink_to(outside / "new")
    (root / "acme/loop").symlink_to("loop")
    (root / "acme/file").write_bytes(b"first")
    return root, outside


@given(segments=SEGMENTS, is_replacing=st.booleans(), has_nameless=st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_path_touches_anything_outside(segments: list[str], is_replacing: bool, has_nameless: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        root, outside = lay_out(Path(folder))
        if not has_nameless:
            patch.setattr(disk_file, "_TMPFILE", 0)
        disk = open_disk(root, disk_config(is_replacing=is_replacing), threads, timedelta(seconds=20))

        async def upload() -> str | None:
            try:
                async with disk.deliver(make_item(segments=tuple(segments)), ScriptedBody([b"new"])) as delivery:
                    return (await delivery.settled()).objects[0].key
            except (PathInvalid, ObjectExists):
                return None

        links = {name: content for name, content in tree(root).items() if isinstance(content, str)}
        key = asyncio.run(upload())
        assert sorted(path.name for path in Path(folder).iterdir()) == ["outside", "root"]
        assert tree(outside) == {"precious": b"keep"}
        assert links.items() <= tree(root).items()
        assert temp_names(root) == []
        if key is None:
            assert b"new" not in tree(root).values()
        else:
            assert (root / "acme" / key).read_bytes() == b"new"


@pytest.mark.parametrize("is_replacing", [False, True])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("link/a", PathInvalid),
        ("link/sub/a", PathInvalid),
        ("loop/a", PathInvalid),
        ("dangling/a", PathInvalid),
        ("link", ObjectExists),
        ("dangling", ObjectExists),
    ],
)
async def test_a_link_is_never_followed(
    way: str, tmp_path: Path, make_disk: MakeDisk, path: str, error: type[RelayError], is_replacing: bool
) -> None:
    root, outside = lay_out(tmp_path / "other")
    body = ScriptedBody([b"new"])
    with pytest.raises(error):
        async with make_disk(below=root, is_replacing=is_replacing).deliver(make_item(path), body):
            pass
    assert not body.is_asked, way
    assert tree(outside) == {"precious": b"keep"}


@pytest.mark.parametrize("is_replacing", [False, True])
async def test_a_folder_that_becomes_a_link_while_the_body_comes_is_not_followed(
    way: str, tmp_path: Path, make_disk: MakeDisk, is_replacing: bool
) -> None:
    root, outside = lay_out(tmp_path / "other")
    (root / "acme/sub").mkdir()
    gate = asyncio.Event()
    body = ScriptedBody([b"new"], gate=gate)

    async def upload() -> None:
        async with make_disk(below=root, is_replacing=is_replacing).deliver(make_item("sub/a"), body):
            pass

    task = asyncio.create_task(upload())
    await body.has_given_all.wait()
    (root / "acme/sub").rmdir()
    (root / "acme/sub").symlink_to(outside)
    gate.set()
    with pytest.raises(PathInvalid):
        await task
    assert tree(outside) == {"precious": b"keep"}, way
    assert temp_names(root) == []


async def test_a_name_that_becomes_a_link_while_the_body_comes_is_not_written_through(
    way: str, tmp_path: Path, make_disk: MakeDisk
) -> None:
    root, outside = lay_out(tmp_path / "other")
    gate = asyncio.Event()
    body = ScriptedBody([b"new"], gate=gate)

    async def upload() -> None:
        async with make_disk(below=root).deliver(make_item("a"), body):
            pass

    task = asyncio.create_task(upload())
    await body.has_given_all.wait()
    (root / "acme/a").symlink_to(outside / "precious")
    gate.set()
    with pytest.raises(ObjectExists):
        await task
    assert tree(outside) == {"precious": b"keep"}, way


async def test_a_destination_whose_directory_is_a_link_is_misconfigured(tmp_path: Path, make_disk: MakeDisk) -> None:
    root, outside = lay_out(tmp_path / "other")
    disk = make_disk("acme/link", below=root)
    with pytest.raises(DestinationMisconfigured):
        async with disk.deliver(make_item("a"), ScriptedBody([b"new"])):
            pass
    assert (await disk.check()).code == "destination_misconfigured"
    assert tree(outside) == {"precious": b"keep"}


async def test_a_temporary_folder_that_is_a_link_is_not_followed(tmp_path: Path, make_disk: MakeDisk) -> None:
    root, outside = lay_out(tmp_path / "other")
    (root / ".relay-tmp").symlink_to(outside)
    with pytest.raises(RelayError):
        async with make_disk(below=root, is_replacing=True).deliver(make_item("file"), ScriptedBody([b"new"])):
            pass
    with pytest.raises(OSError, match="Not a directory"):
        disk_file.sweep(root)
    assert tree(outside) == {"precious": b"keep"}
    assert (root / "acme/file").read_bytes() == b"first"


async def test_the_root_itself_may_be_a_link(tmp_path: Path, make_disk: MakeDisk) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    async with make_disk(below=link).deliver(make_item("a"), ScriptedBody([b"x"])):
        pass
    assert tree(real) == {"acme": None, "acme/a": b"x"}
