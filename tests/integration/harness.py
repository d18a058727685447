"""Real processes: started in groups of their own, with their output kept, ended to the last child."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[2]


def wait_for(
    condition: Callable[[], object], what: str | Callable[[], str], timeout: float = 30, poll: float = 0.05
) -> float:
    """Wait until `condition()` is true; how many seconds that took. AssertionError about `what` after `timeout`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout:
            raise AssertionError(f"waited {timeout:.0f} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(poll)
    return time.monotonic() - started


class Process:
    """A child process with its log. Its whole tree ends with `kill()`."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: dict[str, str], cwd: Path = ROOT, pipe: bool = False
    ) -> None:
        self.name = name
        self.log = log
        self._known: dict[int, psutil.Process] = {}
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else output,
                stderr=output,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_output(self, text: str, timeout: float = 30) -> None:
        def seen() -> bool:
            assert self.popen.poll() is None or text in self.output(), f"{self.name} has ended:\n{self.output()}"
            return text in self.output()

        wait_for(seen, f"{self.name} to say {text!r}:\n{self.output()[-2000:]}", timeout)

    def tree(self) -> list[psutil.Process]:
        """It and all below it that live, also those that were below it when we looked last."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.popen.pid)
            for process in [top, *top.children(recursive=True)]:
                self._known[process.pid] = process
        return [process for process in self._known.values() if is_alive(process)]

    def kill(self) -> None:
        """SIGKILL to every process of the tree at once, the top first so that it starts no more."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._reap()

    def terminate(self, timeout: float = 20) -> float:
        """SIGTERM to the top alone; how many seconds until nothing of the tree is left."""
        self.tree()
        self.popen.terminate()
        seconds = wait_for(lambda: self.popen.poll() is not None, f"{self.name} to end after SIGTERM", timeout)
        seconds += wait_for(lambda: not self.tree(), f"the children of {self.name} to end with it", timeout)
        self._reap()
        return seconds

    def _reap(self) -> None:
        self.popen.wait(timeout=10)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def is_alive(process: psutil.Process) -> bool:
    """A zombie is dead: nobody may be there to reap an orphan."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Saver(Process):
    """The saving process; see saver.py."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.popen.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"the saving process has ended:\n{self.output()}"
        return dict(json.loads(line))

    def ask_to_die(self, do: str, **arguments: Any) -> None:
        """The answer is its death, by SIGKILL."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.popen.stdin.flush()
        assert self.popen.wait(timeout=30) == -signal.SIGKILL, self.output()
        self._reap()


class Site:
    """The processes of one site: a database, a broker, any number of savers and workers."""

    def __init__(self, alias: str, broker: str, scratch: Path) -> None:
        self.scratch = scratch
        self.env = {
            "DJANGO_SETTINGS_MODULE": "tests.integration.settings",
            "SIGNALQ_TEST_ALIAS": alias,
            "SIGNALQ_TEST_SCRATCH": str(scratch),
            "BROKER_URL": broker,
        }
        self.processes: list[Process] = []
        self.restarts = 0

    def _log(self, name: str) -> Path:
        return self.scratch / f"{len(self.processes)}-{name}.log"

    def saver(self, **env: str) -> Saver:
        command = [sys.executable, "-m", "tests.integration.saver"]
        saver = Saver("saver", command, self._log("saver"), {**self.env, **env}, pipe=True)
        self.processes.append(saver)
        saver.answer()
        return saver

    def worker(self, *arguments: str, **env: str) -> Process:
        """A plain `celery worker` with two children, ready for work."""
        command = [sys.executable, "-m", "celery", "-A", "tests.integration.celeryapp", "worker"]
        command += ["--loglevel=INFO", "--concurrency=2", *arguments]
        worker = Process("worker", command, self._log("worker"), {**self.env, **env})
        self.processes.append(worker)
        worker.wait_for_output(" ready.")
        return worker

    def supervised(self, worker: Process) -> Process:
        """What systemd or Docker do for a worker: start a new one if it has ended."""
        if worker.popen.poll() is None:
            return worker
        self.restarts += 1
        return self.worker()

    def release(self) -> None:
        """Let every handler go that waits in `held`."""
        (self.scratch / "release").touch()

    def held(self) -> int:
        """How many handlers have written and wait."""
        return len(list(self.scratch.glob("held-*")))

    def close(self) -> None:
        for process in self.processes:
            process.kill()

    def logs(self) -> str:
        return "\n".join(f"--- {process.log.name}\n{process.output()[-8000:]}" for process in self.processes)


class Proxy:
    """A TCP proxy on loopback: a server behind it can be frozen or refuse, while others go on using it."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing = threading.Event()
        self._flowing.set()
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.accept()

    def accept(self) -> None:
        """Listen (again), always on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=[self._listener], daemon=True).start()

    def refuse(self) -> None:
        """Nobody listens any more, and every connection breaks."""
        listener, self._listener = self._listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            listener.close()
        connections, self._connections = self._connections, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def freeze(self) -> None:
        """Connections are taken, but no byte passes."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self.thaw()
        self.refuse()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._connections += [client, server]
            for source, sink in [(client, server), (server, client)]:
                threading.Thread(target=self._pump, args=[source, sink], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
