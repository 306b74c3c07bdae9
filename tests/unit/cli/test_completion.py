"""Completion in a shell: the script that is printed, and what it is answered."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from relay.cli import COMMANDS, relay
from relay.cli.completion import SHELLS
from tests.support.processes import ROOT


def complete(*words: str) -> list[str]:
    """What bash is told for the last word."""
    environment = {"_RELAY_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["relay", *words]), "COMP_CWORD": str(len(words))}
    result = CliRunner(env=environment).invoke(relay, prog_name="relay")
    return [line.partition(",")[2] for line in result.output.splitlines()]


def test_commands_nouns_verbs_and_options_complete() -> None:
    assert set(complete("")) == set(COMMANDS)
    assert complete("desti") == ["destination"]
    assert complete("key", "is") == ["issue"]
    assert "--content-type" in complete("tenant", "create", "--")
    assert complete("completion", "f") == ["fish"]
    assert complete("upload", "--method", "P") == ["PUT", "POST"]
    assert "worker" not in complete("w")


def test_completing_a_command_imports_none() -> None:
    script = "import sys; from relay.cli import relay; import click; relay.shell_complete(click.Context(relay), ''); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert {name for name in loaded if name.startswith("relay.cli.")} == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_printed_and_says_how_to_install_it(shell: str) -> None:
    result = CliRunner().invoke(relay, ["completion", shell])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith("# To have it in every shell, put this line into ~/.")
    assert f"relay completion {shell}" in result.stdout
    assert f"_RELAY_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash: apt-get install bash")
def test_bash_completes_with_it(tmp_path: Path) -> None:
    command = tmp_path / "relay"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m relay "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(relay completion bash)"
        complete -p relay
        COMP_WORDS=(relay destination re) COMP_CWORD=2
        _relay_completion relay re destination
        printf 'completed: %s\\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, env=environment, timeout=25)
    assert "-F _relay_completion relay" in told.stdout
    assert told.stdout.splitlines()[-1] == "completed: reseal"
