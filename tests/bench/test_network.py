"""A run's own network: a loopback that works, with what the kernel comes with, and nothing of the host's is changed."""

import subprocess
import sys
from pathlib import Path

from bench.network import HOSTS, OWN, congestion_control
from bench.processes import ROOT

IN_IT = """
import os, socket
from bench.network import congestion_control, enter_network

print(enter_network(), os.readlink("/proc/self/ns/net"), congestion_control(), sep="|")
print(*(name for _, name in socket.if_nameindex()))
with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname(), 5) as connected:
    print(connected.getpeername()[0])
"""


def test_a_run_has_a_loopback_of_its_own_where_that_is_allowed() -> None:
    before = congestion_control()
    told = subprocess.run([sys.executable, "-c", IN_IT], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    where, interfaces, peer = told.stdout.splitlines()
    network, namespace, congestion = where.split("|")
    assert peer == "127.0.0.1"
    assert network in {OWN, HOSTS}
    assert (namespace != str(Path("/proc/self/ns/net").readlink())) == (network == OWN)
    if network == OWN:
        assert interfaces == "lo"
        assert congestion == "cubic"
    assert congestion_control() == before
