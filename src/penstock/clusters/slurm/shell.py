"""How a script reaches the login node: a shell of this machine, or one behind the system's OpenSSH.

A script goes in on ``bash``'s standard input, so that nothing has to be quoted for a command line, and as
one function, so that a half of it is never run. What it says comes back between two lines that carry a
fresh random word: what a ``.bashrc`` prints is left out, and an answer without its end is no answer.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from penstock.errors import JobError

__all__ = ["MET", "Here", "Refused", "Shell", "Ssh", "Unreachable", "answer_in", "framed"]

_AT_ONCE = 8
"""Sessions on one connection: OpenSSH's servers allow 10 where nobody set MaxSessions."""

_ENVIRONMENT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SLURM_CONF")
_ENVIRONMENT_FAMILIES = ("LC_", "MODULE", "LMOD", "_LMFILES", "LOADEDMODULES", "BASH_FUNC_m")

_NAME_UNKNOWN = "Name or service not known"
"""Final for a host that never answered; of one that did, the name server is away, as when a VPN is."""

_FINAL = {
    "Host key verification failed": "its host key is not known here, or has changed. Compare the fingerprint with the "
    "one that the site gives, then log in once by hand, which adds it to known_hosts",
    "Permission denied": "it accepts none of the keys offered. See that the agent runs, and User and IdentityFile in "
    "~/.ssh/config",
    _NAME_UNKNOWN: "there is no host of that name; mend 'host', or add it to ~/.ssh/config",
    "No such file or directory": "a file that the ssh options name is not there",
    "Bad configuration option": "the ssh options or ~/.ssh/config have a mistake",
    "Bad owner or permissions": "others can write to the ssh configuration; chmod 600 it",
    "UNPROTECTED PRIVATE KEY": "others can read the private key; chmod 600 it",
}


class Unreachable(JobError):  # noqa: N818
    """The login node could not be asked; what was asked may or may not have happened."""


class Refused(JobError):  # noqa: N818
    """The login node will say the same again until somebody changes something."""


class Shell(Protocol):
    """Runs a script on the login node."""

    def run(self, script: str, timeout_seconds: float) -> str:
        """What *script* wrote. Raises `Unreachable` or `Refused`."""


MET: set[Shell] = set()
"""Those that have answered this process."""


def framed(script: str, word: str) -> str:
    """*script* as one function whose output stands between lines with *word*; its standard input is empty."""
    return (
        f"penstock_main() {{\n{script}\n}}\n"
        f"printf '\\n%s begin\\n' {word}\n( penstock_main ) < /dev/null\nprintf '\\n%s end %d\\n' {word} $?\nexit 0\n"
    )


def answer_in(output: str, word: str) -> tuple[str, int] | None:
    """What stands between the lines with *word*, and the script's exit status; None when either line is lacking."""
    _, found, rest = output.partition(f"\n{word} begin\n")
    body, ended, tail = rest.rpartition(f"\n{word} end ")
    code = tail.partition("\n")[0]
    return (body, int(code)) if found and ended and code.isdecimal() else None


@dataclass(frozen=True)
class Here:
    """This machine is a login node."""

    def run(self, script: str, timeout_seconds: float) -> str:
        """See `Shell`. Of this process's environment the job gets what a login has, and no secrets."""
        said = _spoken(["bash", "-s"], script, timeout_seconds, _login_environment(), where="this machine")
        MET.add(self)
        return said


@dataclass(frozen=True)
class Ssh:
    """A login node behind OpenSSH; one connection is shared by all commands.

    ``~/.ssh/config``, agents, certificates and ProxyJump are OpenSSH's own business.

    Attributes:
        host: as ``ssh`` takes it.
        options: more for ``ssh``; they win over those given here.
    """

    host: str
    options: tuple[str, ...] = ()

    def run(self, script: str, timeout_seconds: float) -> str:
        """See `Shell`."""
        with _turns(self):
            by_hand = shlex.join(["ssh", *self.options, self.host])
            try:
                said = _spoken(self.command(), script, timeout_seconds, None, where=self.host, by_hand=by_hand)
            except Refused as error:
                if self in MET and _NAME_UNKNOWN in str(error):
                    raise Unreachable(f"{self.host} answered before, and now: {error}") from error
                raise
        MET.add(self)
        return said

    def command(self) -> list[str]:
        """The command that reads a script."""
        ours = {
            "BatchMode": "yes",
            "ControlMaster": "auto",
            "ControlPath": f"{_socket_folder()}/%C",
            "ControlPersist": "120",
            "ConnectTimeout": "20",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "ClearAllForwardings": "yes",
        }
        options = [word for name, value in ours.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", *self.options, *options, "-T", "--", self.host, "bash -s"]


@functools.cache
def _turns(shell: Ssh) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(_AT_ONCE)


def _socket_folder() -> Path:
    """A short path, since that of a socket may have about 100 characters; nobody else's."""
    folder = Path("/tmp") / f"penstock-ssh-{os.getuid()}"  # noqa: S108  (mode and owner are looked at)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Refused(f"{folder} belongs to somebody else or is open to others; remove it")
    return folder


def _login_environment() -> dict[str, str]:
    found = os.environ.items()
    return {name: value for name, value in found if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_FAMILIES)}


def _spoken(
    command: Sequence[str],
    script: str,
    timeout_seconds: float,
    environment: Mapping[str, str] | None,
    *,
    where: str,
    by_hand: str = "bash",
) -> str:
    word = f"penstock-{uuid.uuid4().hex}"
    # Files, not pipes: the connection that stays behind would keep pipes open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            done = subprocess.run(
                command, input=framed(script, word).encode(), stdout=out, stderr=err, env=environment,
                timeout=timeout_seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{where} did not answer in {timeout_seconds:g} s") from error
        except FileNotFoundError as error:
            raise Refused(f"there is no {command[0]} on this machine") from error
        said, complained = _text(out), _text(err)
    answer = answer_in(said, word)
    if answer is None:
        raise _unanswered(where, done.returncode, complained, by_hand)
    return answer[0]


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _unanswered(where: str, code: int, error: str, by_hand: str) -> JobError:
    words = " ".join(error.split())[-600:] or f"it ended with status {code} and said nothing"
    for mark, advice in _FINAL.items():
        if code == 255 and mark in error:
            return Refused(f"cannot log in to {where}: {advice}.\n  ssh said: {words}\n  try by hand: {by_hand}")
    if code == 127:
        return Refused(f"{where} has no bash ({words})")
    return Unreachable(f"{where} gave no whole answer: {words}")
