"""Binding the ports: what is refused says the variable, the address and what to do."""

import socket

import pytest

from relay.cli.listening import PortBusy, bind, url_of


def test_bound_port_takes_connections_before_any_worker_runs() -> None:
    with bind("RELAY_LISTEN", "127.0.0.1:0") as bound, socket.create_connection(bound.getsockname(), 5):
        assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_port_can_be_bound_again_at_once() -> None:
    with bind("RELAY_LISTEN", "127.0.0.1:0") as bound:
        port = bound.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5):
            accepted, _ = bound.accept()
            accepted.close()  # our side closes first and stays in TIME_WAIT
    bind("RELAY_LISTEN", f"127.0.0.1:{port}").close()


def test_busy_port_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            PortBusy, match=rf"^RELAY_ADMIN_LISTEN 127\.0\.0\.1:{port} is in use\. .* RELAY_ADMIN_LISTEN to another port\.$"
        ):
            bind("RELAY_ADMIN_LISTEN", f"127.0.0.1:{port}")


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_address_that_is_not_ours_is_refused_by_name(listen: str) -> None:
    with pytest.raises(PortBusy, match=f"^RELAY_LISTEN {listen} cannot be used: "):
        bind("RELAY_LISTEN", listen)


def test_every_interface_is_shown_as_an_address_that_works_here() -> None:
    with bind("RELAY_LISTEN", ":0") as bound:
        assert url_of(bound).startswith("http://127.0.0.1:")
