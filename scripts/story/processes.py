"""Programs the story starts: each with its own log, known by its process id, and gone when the story is."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


class Failed(Exception):
    """A step did not find what it wanted. The text says what it wanted and what it found."""


class NotRun(Exception):
    """A step that cannot be told yet. The text says why."""


def want(holds, otherwise):
    """Fails the step unless `holds`."""
    if not holds:
        raise Failed(otherwise)


def wait_for(what, holds, seconds, pause=0.2):
    """Waits until `holds()` is true and returns what it gave. An exception counts as not yet."""
    until, last = time.monotonic() + seconds, None
    while time.monotonic() < until:
        try:
            if found := holds():
                return found
        except Exception as error:
            last = error
        time.sleep(pause)
    raise Failed(f"waited {seconds} s for {what}" + (f"; the last error: {last}" if last else ""))


def free_port():
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """One program, started again under the same name and log as often as the story wants."""

    # Ends the program should the story be killed before it could clean up.
    LEASH = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []

    def __init__(self, name, command, home: Path):
        self.name, self.command, self.home = name, [str(word) for word in command], home
        self.log = home / f"{name}.log"
        self.child = None
        self.starts = 0

    def start(self, **environment):
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [*self.LEASH, *self.command],
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={**os.environ, "HOME": str(self.home), **environment},
            )
        self.starts += 1
        return self

    def built(self):
        return Path(self.command[0]).exists()

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def send(self, number):
        self.child.send_signal(number)

    def kill(self):
        """At once, as a power cut would."""
        self.send(signal.SIGKILL)
        self.child.wait()

    def stop(self, seconds=90):
        """Asks it to end, and gives it time to."""
        if not self.alive():
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def lines(self):
        return self.log.read_text(errors="replace").splitlines()
