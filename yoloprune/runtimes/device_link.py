"""Another machine that is reached by a command: a folder sent there, its script run, and the table fetched."""

from __future__ import annotations

import contextlib
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yoloprune import shell_words
from yoloprune.errors import DeviceLinkError
from yoloprune.runtimes import device_folder
from yoloprune.runtimes.device_folder import SCRIPT, TIMES, TOLD


@dataclass(frozen=True)
class Link:
    """A machine behind a command.

    Attributes:
        target (str): The command, to which one command line of a POSIX shell is added: `ssh pi@host`, `sh -c`.
        python (str): What runs Python there.
    """

    target: str
    python: str

    def require(self, form: str | None) -> None:
        """Raise DeviceLinkError unless Python runs there, and a format where one is given; the script itself looks."""
        if form is None:
            self._ask("Python does not run there", f"{self.python} -c ''")
        else:
            self._ask("nothing can be measured there", f"{self.python} - --check {form}", device_folder.script())

    def has(self, place: str) -> bool:
        """Whether a folder was sent there as a whole before."""
        return bool(self._ask("it cannot be looked at", f"if [ -f {place}/{TOLD} ]; then echo yes; fi"))

    def send(self, folder: Path, place: str) -> None:
        """Send a folder; the list of its networks goes last, so that it is there only with all of them."""
        with self._started(f"mkdir -p {place} && tar -xf - -C {place}", stdout=subprocess.DEVNULL) as running:
            assert running.stdin is not None and running.stderr is not None
            with contextlib.suppress(BrokenPipeError):  # what went wrong there is in what it says
                with tarfile.open(fileobj=running.stdin, mode="w|") as tar:
                    for name in ("networks", SCRIPT, TOLD):
                        tar.add(folder / name, arcname=name)
                running.stdin.close()
            said = running.stderr.read()
        self._require_done("the folder could not be sent", running.returncode, said)

    def measure(self, place: str) -> None:
        """Run the script there; what it says is seen here."""
        with self._started(f"cd {place} && {self.python} {SCRIPT}") as running:
            assert running.stdin is not None and running.stderr is not None
            running.stdin.close()
            said = running.stderr.read()
        self._require_done("the measurement ended", running.returncode, said)

    def fetch(self, place: str) -> bytes:
        """The table that was written there; its folder is gone afterwards."""
        table = self._ask(f"{TIMES} could not be fetched", f"cat {place}/{TIMES}")
        self._ask("the folder could not be removed", f"rm -r {place}")
        return table

    def _ask(self, doing: str, line: str, sent: str = "") -> bytes:
        """What a command line prints there."""
        with self._started(line, stdout=subprocess.PIPE) as running:
            printed, said = running.communicate(sent.encode())
        self._require_done(doing, running.returncode, said)
        return printed

    @contextlib.contextmanager
    def _started(self, line: str, stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        words = [*shell_words.split(self.target), line]
        try:
            running = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE)
        except OSError as e:
            raise DeviceLinkError(f"target={self.target}: {words[0]}: {e.strerror or e}") from None
        with running:
            yield running

    def _require_done(self, doing: str, status: int, said: bytes) -> None:
        if status:
            lines = said.decode(errors="replace").strip().splitlines() or [f"status {status}"]
            raise DeviceLinkError(f"target={self.target}: {doing}: {lines[-1].removeprefix(f'{SCRIPT}: error: ')}")
