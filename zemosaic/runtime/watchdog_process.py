"""The process that ends a run which gives no sign of life: a script of the standard library alone.

Usage: ``python watchdog_process.py PID TIMEOUT GRACE FILE``. From standard input it reads lines
``stage NAME`` and ``untimed NAME``, dots as signs of life, the numbers of received signals as
single bytes (`signal.set_wakeup_fd`), and `HANDLED` when the main thread has handled one. It ends
when its input does.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time

TICK = 1.0  # longest time between two looks, in seconds
DUMP_TIME = 5.0  # seconds for the run to dump its stack and end
INTERRUPTS = {
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
}
HANDLED = b"!"


class Watch:
    """The state of a run, from its messages.

    Time during which the run or the machine is suspended does not count. Other threads may give
    signs of life while the main thread is stuck in C: from an interrupt until the main thread has
    handled it, they do not count.

    Parameters
    ----------
    timeout : float
        Seconds after which a timed stage is ended; 0 means never.
    grace : float
        Seconds without a sign of life, from an interrupt on, after which the run is ended.
    """

    def __init__(self, timeout: float, grace: float) -> None:
        self.timeout, self.grace = timeout, grace
        self.tick = min(TICK, timeout / 4 or TICK, grace / 4)
        self.stage, self.timed = "start", True
        self.interrupted = self.handled = False
        self.elapsed = self.silence = 0.0
        self._rest = b""

    def receive(self, chunk: bytes) -> None:
        """Handle messages."""
        for byte in chunk:
            if byte in INTERRUPTS:
                self._interrupt()
            elif byte == HANDLED[0]:
                self.handled = True
        chunk = bytes(byte for byte in chunk if byte >= 32 or byte == 10)
        if chunk and (self.handled or not self.interrupted):
            self.silence = 0.0
        chunk = chunk.replace(b".", b"").replace(HANDLED, b"")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            kind, _, name = line.decode(errors="replace").partition(" ")
            self.stage, self.timed, self.elapsed = name, kind == "stage", 0.0

    def _interrupt(self) -> None:
        if self.handled or not self.interrupted:  # else a second one must not prolong the grace
            self.silence = 0.0
        self.interrupted, self.handled = True, False

    def count(self, seconds: float) -> None:
        """Add time in which the run could have worked."""
        seconds = min(seconds, 2 * self.tick)  # the machine slept
        self.elapsed += seconds
        self.silence += seconds

    def verdict(self) -> str:
        """Return why the run is to be ended; empty if it is not."""
        if self.interrupted and self.silence >= self.grace:
            return f"interrupted, but stage {self.stage} has not reacted for {self.silence:.0f} s"
        if self.timeout and self.timed and self.elapsed >= self.timeout:
            return f"stage {self.stage} has not ended in {self.elapsed:.0f} s (--stage-timeout)"
        return ""


def main(pid: int, timeout: float, grace: float, path: str) -> None:
    """Watch a run until its end, or end it."""
    chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    try:
        threading.Thread(target=_read, args=(chunks,), daemon=True).start()
    except RuntimeError:  # a limit on threads: the run goes on without a watchdog
        return
    watch, last = Watch(timeout, grace), time.monotonic()
    while True:
        try:
            chunk = chunks.get(timeout=watch.tick)
        except queue.Empty:
            chunk = b""
        else:
            if not chunk:
                return
        now = time.monotonic()
        if not _is_stopped(pid):
            watch.count(now - last)
        last = now
        watch.receive(chunk)
        if reason := watch.verdict():
            _end(pid, reason, path, chunks)
            return


def _read(chunks: queue.SimpleQueue[bytes]) -> None:
    while chunk := os.read(0, 1 << 16):
        chunks.put(chunk)
    chunks.put(b"")


def _is_stopped(pid: int) -> bool:
    """Return whether a process is suspended, as by Ctrl-Z; False if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"Tt"
    except OSError:  # not on Linux
        pass
    if os.name == "nt":
        return False
    done = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, check=False)
    return done.stdout.strip().startswith(b"T")


def _end(pid: int, reason: str, path: str, chunks: queue.SimpleQueue[bytes]) -> None:
    """End the run, with a dump of its stack if a signal can ask for one."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(reason)
    except OSError:
        pass  # a full disk: the line below remains
    print(f"zemosaic: {reason}; the run is ended", file=sys.stderr, flush=True)
    if sys.platform == "win32":
        os.kill(pid, signal.SIGTERM)
        return
    os.kill(pid, signal.SIGABRT)
    deadline = time.monotonic() + DUMP_TIME
    while (left := deadline - time.monotonic()) > 0:
        try:
            if not chunks.get(timeout=left):
                return
        except queue.Empty:
            break
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
