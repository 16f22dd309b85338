"""Scripts go in whole and answers come back whole, whatever a login prints, and however a connection ends."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clusters.slurm import shell
from penstock.clusters.slurm.shell import Here, Refused, Ssh, Unreachable, answer_in, framed


@given(st.text(), st.text(), st.text(), st.integers(0, 255))
def test_what_stands_in_the_frame_comes_back(noise, body, after, code):
    word = "penstock-0123"
    assert answer_in(f"{noise}\n{word} begin\n{body}\n{word} end {code}\n{after}", word) == (body, code)


@given(st.text(), st.integers(0, 80))
def test_an_answer_that_was_cut_short_is_none(body, length):
    whole = f"\nw begin\n{body}\nw end 0\n"
    assert answer_in(whole[: min(length, len(whole) - 2)], "w") is None


@pytest.mark.parametrize("last", ["echo one", "echo two", "}", "printf", "word", "( penstock"])
def test_half_a_script_does_nothing(tmp_path, last):
    script = framed("echo one >> made\necho two >> made", "word")
    half = script[: script.index(last) + len(last)]
    subprocess.run(["bash", "-s"], input=half, text=True, capture_output=True, cwd=tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_script_is_run_by_bash_and_its_own_exit_status_is_no_failure():
    assert Here().run("echo one; echo two; exit 255", 10) == "one\ntwo\n"


def test_a_script_reads_nothing_from_its_own_text():
    assert Here().run("cat; echo after", 10) == "after\n"


def test_an_answer_that_takes_too_long():
    with pytest.raises(Unreachable, match=r"this machine did not answer in 0\.2 s"):
        Here().run("sleep 5", 0.2)


def test_the_local_shell_has_no_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/here")
    seen = Here().run("env", 10)
    assert "s3cr3t" not in seen
    assert "SLURM_JOB_ID" not in seen
    assert "SLURM_CONF=/etc/here" in seen
    assert "HOME=" in seen


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put a program in ssh's place; gives what makes it."""
    monkeypatch.setattr(shell, "MET", set())
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def make(script):
        path = tmp_path / "ssh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return Ssh("hpc", ("-F", "my config"))

    return make


def test_what_a_bashrc_prints_is_left_out(ssh):
    reached = ssh('echo "Welcome to HPC! ~~~"; echo "Last login" >&2; bash -s; echo bye')
    assert reached.run("echo answer", 10) == "answer\n"


def test_the_command_line_has_no_script_and_ours_come_after_the_users_options(ssh, tmp_path):
    reached = ssh(f'printf "%s\\n" "$@" > {tmp_path}/words; bash -s')
    reached.run("echo 'a \"b\" $HOME'", 10)
    words = (tmp_path / "words").read_text().split("\n")
    assert words[:2] == ["-F", "my config"]
    assert words[-4:] == ["--", "hpc", "bash -s", ""]
    options = words[3:-4:2]
    assert {"BatchMode=yes", "ControlMaster=auto", "ClearAllForwardings=yes"} <= set(options)
    path = next(option for option in options if option.startswith("ControlPath=")).removeprefix("ControlPath=")
    assert len(path) < 40
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


# As OpenSSH 9.2 said them.
FINAL = {
    "No ED25519 host key is known for [127.0.0.1]:2322 and you have requested strict checking.\r\n"
    "Host key verification failed.": "its host key is not known here",
    "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\r\nHost key verification failed.": "or has changed",
    "root@127.0.0.1: Permission denied (publickey).": "it accepts none of the keys",
    "ssh: Could not resolve hostname hpc: Name or service not known": "there is no host of that name",
    "Can't open user config file nowhere: No such file or directory": "a file that the ssh options name",
}


@pytest.mark.parametrize("said", FINAL)
def test_what_will_not_pass_is_refused_with_advice(ssh, said):
    with pytest.raises(Refused) as caught:
        ssh(f"cat >&2 <<'E'\n{said}\nE\nexit 255").run("echo", 10)
    text = str(caught.value)
    assert text.startswith("cannot log in to hpc: ")
    assert FINAL[said] in text
    assert " ".join(said.split()) in text
    assert "try by hand: ssh -F 'my config' hpc" in text


@pytest.mark.parametrize(
    "said",
    [
        "ssh: connect to host 127.0.0.1 port 2322: Connection refused",
        "Connection closed by 127.0.0.1 port 2322",
        "ssh: connect to host hpc port 22: Connection timed out",
        "ssh: Could not resolve hostname hpc: Temporary failure in name resolution",
        "",
    ],
)
def test_what_may_pass_is_no_refusal(ssh, said):
    with pytest.raises(Unreachable, match="hpc gave no whole answer") as caught:
        ssh(f"cat > /dev/null; echo '{said}' >&2; exit 255").run("echo", 10)
    assert said in str(caught.value)


def test_a_host_that_answered_before_has_a_name_still(ssh, tmp_path):
    said = "ssh: Could not resolve hostname hpc: Name or service not known"
    reached = ssh(f"test -e {tmp_path}/down || exec bash -s; cat > /dev/null; echo '{said}' >&2; exit 255")
    assert reached.run("echo one", 10) == "one\n"
    (tmp_path / "down").touch()
    with pytest.raises(Unreachable, match=f"hpc answered before, and now: .*\\n  ssh said: {said}"):
        reached.run("echo two", 10)


def test_a_connection_that_breaks_in_the_middle(ssh):
    with pytest.raises(Unreachable):
        ssh("bash -s | head -n 3; exit 255").run("echo one; echo two; echo three; echo four", 10)


def test_a_login_node_without_bash(ssh):
    with pytest.raises(Refused, match="hpc has no bash"):
        ssh("cat > /dev/null; echo 'bash: command not found' >&2; exit 127").run("echo", 10)


def test_a_machine_without_ssh(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused, match="there is no ssh on this machine"):
        Ssh("hpc").run("echo", 10)


def test_a_socket_folder_that_others_can_read_is_not_used(monkeypatch, tmp_path):
    folder = shell._socket_folder()
    assert folder.stat().st_uid == os.getuid()
    monkeypatch.setattr(shell.os, "getuid", lambda: os.geteuid() + 12345)
    try:
        with pytest.raises(Refused, match="belongs to somebody else"):
            shell._socket_folder()
    finally:
        Path(f"/tmp/penstock-ssh-{os.geteuid() + 12345}").rmdir()
