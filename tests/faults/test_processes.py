"""The supervisor and its children: whoever dies, however it dies, nobody is left and the port is free."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.processes import Running, children_of, command_of, descendants_of, free_port, is_alive, is_open, poll, relay

GONE_WITHIN_SECONDS = 2.0


def environment(data_dir: Path, port: int, **more: str) -> dict[str, str]:
    return {
        "RELAY_DATA_DIR": str(data_dir),
        "RELAY_LISTEN": f"127.0.0.1:{port}",
        "RELAY_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
        "RELAY_LOG_FORMAT": "text",
        **more,
    }


@contextmanager
def serving(data_dir: Path, *, workers: int = 2, app: str = "create_app", **more: str) -> Iterator[tuple[Running, int]]:
    port = free_port()
    arguments = ("serve", "--workers", str(workers), "--app", f"tests.support.standin:{app}")
    with relay(*arguments, environment=environment(data_dir, port, **more)) as running:
        running.wait_for_line("^listening on")
        yield running, port


def pid_of_worker(port: int) -> int:
    return int(httpx.get(f"http://127.0.0.1:{port}/pid").json()["pid"])


def assert_gone(pids: list[int], port: int) -> None:
    poll(lambda: not any(is_alive(pid) for pid in pids), "processes are left", GONE_WITHIN_SECONDS)
    poll(lambda: not is_open(port), "the port is taken", GONE_WITHIN_SECONDS)


def test_killed_supervisor_leaves_no_orphan_and_a_free_port(tmp_path: Path) -> None:
    with serving(tmp_path) as (running, port):
        pids = [running.pid, *descendants_of(running.pid)]
        assert len(pids) == 3
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        assert_gone(pids, port)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def test_worker_that_is_stopped_dies_with_its_supervisor_too(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (running, port):
        worker = pid_of_worker(port)
        os.kill(worker, signal.SIGSTOP)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        assert_gone([worker], port)


def test_dead_worker_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    with serving(tmp_path) as (running, port):
        before = children_of(running.pid)
        os.kill(before[0], signal.SIGKILL)
        poll(lambda: len(set(children_of(running.pid)) | set(before)) == 3, "no successor")
        assert before[1] in children_of(running.pid)
        successor = next(pid for pid in children_of(running.pid) if pid not in before)
        poll(lambda: pid_of_worker(port) == successor, "the successor does not serve")
        running.wait_for_line(rf"worker 1 \(pid {before[0]}\) died by SIGKILL: starting another")


def test_only_worker_is_replaced_while_connections_wait(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (_, port):
        dead = pid_of_worker(port)
        os.kill(dead, signal.SIGKILL)
        poll(lambda: not is_alive(dead), "the worker lives")
        assert httpx.get(f"http://127.0.0.1:{port}/pid", timeout=15).json()["pid"] != dead


def test_worker_whose_background_work_failed_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1, app="create_app_whose_work_fails") as (running, port):
        broken = int(httpx.get(f"http://127.0.0.1:{port}/break").json()["pid"])
        running.wait_for_line(rf"\(pid {broken}\) ended with exit code 1: starting another")
        poll(lambda: not is_alive(broken), "the worker lives")
        assert httpx.get(f"http://127.0.0.1:{port}/pid", timeout=15).json()["pid"] != broken


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_everything_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, workers=1) as (running, port):
        pids = descendants_of(running.pid)
        os.kill(running.pid, number)
        assert running.wait() == 0
        assert_gone(pids, port)
        assert running.errors[-1].startswith("stopped after")


def test_stop_waits_for_what_runs(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (running, port):
        answers: list[int] = []
        client = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{port}/dawdle?seconds=1.5").status_code))
        client.start()
        running.wait_for_line("dawdling")
        os.kill(running.pid, signal.SIGTERM)
        poll(lambda: not is_open(port), "new connections are taken")
        assert running.wait() == 0
        client.join()
        assert answers == [200]


def test_second_signal_cuts_what_runs(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (running, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /dawdle?seconds=60 HTTP/1.1\r\nHost: relay\r\n\r\n")
        running.wait_for_line("dawdling")
        os.kill(running.pid, signal.SIGINT)
        running.wait_for_line("^stopping")

        def press_again() -> bool:
            os.kill(running.pid, signal.SIGINT)
            return running.process.poll() is not None

        poll(press_again, "it goes on")
        assert running.wait() == 0


def test_echo_of_a_signal_cuts_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (running, port):
        answers: list[int] = []
        client = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{port}/dawdle?seconds=1.5").status_code))
        client.start()
        running.wait_for_line("dawdling")
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(running.pid, number)
        assert running.wait() == 0
        client.join()
        assert answers == [200]


def test_shutdown_timeout_ends_what_does_not_end(tmp_path: Path) -> None:
    with (
        serving(tmp_path, workers=1, RELAY_SHUTDOWN_TIMEOUT="1") as (running, port),
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET /dawdle?seconds=60 HTTP/1.1\r\nHost: relay\r\n\r\n")
        running.wait_for_line("dawdling")
        os.kill(running.pid, signal.SIGTERM)
        assert running.wait(8) == 0


def test_busy_port_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with relay("serve", environment=environment(tmp_path, port)) as running:
            assert running.wait() == 1
            expected = f"error: RELAY_LISTEN 127.0.0.1:{port} is in use. Stop what uses it, or set RELAY_LISTEN to another port."
            assert running.errors == [expected]


def test_busy_admin_port_is_named_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        with relay("serve", environment=environment(tmp_path, free_port(), RELAY_ADMIN_LISTEN=busy)) as running:
            assert running.wait() == 1
            assert running.errors[0].startswith(f"error: RELAY_ADMIN_LISTEN {busy} is in use.")


def test_admin_side_may_have_a_port_of_its_own_and_secrets_stand_on_no_command_line(tmp_path: Path) -> None:
    admin = free_port()
    more = {"RELAY_ADMIN_LISTEN": f"127.0.0.1:{admin}", "RELAY_ADMIN_TOKEN": "not-for-ps"}
    with serving(tmp_path, workers=1, **more) as (running, port):
        assert pid_of_worker(admin) == pid_of_worker(port)
        commands = [command_of(pid) for pid in (running.pid, *descendants_of(running.pid))]
        assert all(commands)
        assert "not-for-ps" not in json.dumps(commands)


@pytest.mark.parametrize(
    ("app", "reason"),
    [("create_refusing_app", "^error: The database does not answer.*database_unavailable"), ("create_app_with_bug", "LookupError: a bug")],
)
def test_worker_that_cannot_start_ends_everything_and_says_why(tmp_path: Path, app: str, reason: str) -> None:
    port = free_port()
    arguments = ("serve", "--workers", "2", "--app", f"tests.support.standin:{app}")
    with relay(*arguments, environment=environment(tmp_path, port)) as running:
        running.wait_for_line(reason)
        assert running.wait() == 1
        assert running.errors[-1].startswith("error: worker")
        assert not is_open(port)


def test_without_a_database_serve_refuses_and_names_both_ways(tmp_path: Path) -> None:
    settings = environment(tmp_path, free_port())
    del settings["RELAY_DATABASE_URL"]
    with relay("serve", environment=settings) as running:
        assert running.wait() == 1
        assert "postgresql://user:password@host/name" in running.told()
        assert "RELAY_DATABASE_URL=embedded" in running.told()


def test_unknown_setting_stops_the_start_with_the_nearest_name(tmp_path: Path) -> None:
    with relay("serve", environment=environment(tmp_path, free_port(), RELAY_LISEN="x")) as running:
        assert running.wait() == 1
        assert running.errors == ["error: RELAY_LISEN is not a setting; the nearest is RELAY_LISTEN. Unset or rename it."]


def test_workers_die_with_a_supervisor_that_dies_while_they_start(tmp_path: Path) -> None:
    arguments = ("serve", "--workers", "2", "--app", "tests.support.standin:create_app")
    with relay(*arguments, environment=environment(tmp_path, free_port())) as running:
        poll(lambda: len(children_of(running.pid)) == 2, "no workers")
        pids = descendants_of(running.pid)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        poll(lambda: not any(is_alive(pid) for pid in pids), "processes are left", GONE_WITHIN_SECONDS)


def test_metrics_of_dead_runs_are_removed_and_those_of_running_ones_kept(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (first, _), serving(tmp_path, workers=1) as (second, _):
        assert len(list((tmp_path / "metrics").iterdir())) == 2
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with serving(tmp_path, workers=1):
            assert len(list((tmp_path / "metrics").iterdir())) == 2
        os.kill(second.pid, signal.SIGTERM)
        assert second.wait() == 0
