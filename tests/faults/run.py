"""One run of the fault tests: savers, workers, and the verdict on what they left."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from signalq.models import Delivery
from tests.faults.queues import depth
from tests.integration.harness import Process, Site, wait_for
from tests.testapp.models import Effect, Intent

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = {"LEASE": 3, "GRACE": 1}
"""Settings of the short version: what is lost is noticed sooner. The long version has the defaults."""
OURS = ["first", "second"]
CONTROL = ["by hand"]
POISON = "poison"
"""The end of the name of an intent whose first handler kills its process."""
QUIET = 1.5
"""Seconds without a new effect of the control, its queue empty, until it counts as finished."""

DEAF = 20.0
"""Seconds for which messages may wait while nothing is done."""


class Run:
    """The processes of one test on one database and one broker, and what they should have done."""

    def __init__(self, site: Site, alias: str, broker: str, long: bool) -> None:
        self.site, self.alias, self.broker, self.long = site, alias, broker, long
        self.kills = 0
        self._mills = 0
        self._looks, self._moved = (0, False), time.monotonic()
        site.env["DJANGO_SETTINGS_MODULE"] = "tests.faults.settings"
        self.settings(**({} if long else QUICK))

    def settings(self, **signalq: object) -> None:
        """What SIGNALQ holds in the processes that are started from now on."""
        self.site.env["SIGNALQ_FAULTS_SETTINGS"] = json.dumps(signalq)

    def worker(self, **env: str) -> Process:
        return self.site.worker(**env)

    def relay(self, **env: str) -> Process:
        """A relay of its own: start the worker with `RELAY=False` beside it."""
        command = [sys.executable, "-m", "django", "signalq", "relay"]
        return self._start("relay", command, env)

    def mill(self, code: str = "both", seed: int = 1, rate: float = 60, **options: object) -> Process:
        """A saving process; see mill.py for its options."""
        command = [sys.executable, "-m", "tests.faults.mill", "--seed", str(seed), "--rate", str(rate)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self.kills += int(str(options.get("kills", 0)))
        return self._start(f"mill-{code}", command, {"SIGNALQ_FAULTS_CODE": code})

    def _start(self, name: str, command: list[str], env: dict[str, str]) -> Process:
        log = self.site.scratch / f"{len(self.site.processes)}-{name}.log"
        process = Process(name, command, log, {**self.site.env, **env})
        self.site.processes.append(process)
        return process

    def finish(self, *mills: Process, timeout: float = 300) -> None:
        """Wait until the mills have done all that they were asked for."""
        for mill in mills:
            wait_for(lambda mill=mill: mill.popen.poll() is not None, f"{mill.name} to finish", timeout)  # type: ignore[misc]
            assert mill.popen.returncode == 0, mill.output()

    def stop(self, *mills: Process) -> None:
        """Let the mills end after the request that each is in."""
        (self.site.scratch / "stop-milling").touch()
        self.finish(*mills)

    def supervised(self) -> Process:
        """The worker, started anew if it has ended, as systemd or Docker do it."""
        workers = [process for process in self.site.processes if process.name == "worker"]
        return self.site.supervised(workers[-1]) if workers else self.site.worker()

    def checked(self) -> Process:
        """The same, also if it is deaf: messages wait and nothing is done, as a health check on the lag notices."""
        looks = self.outstanding(), bool(depth(self.broker))
        if looks != self._looks or not all(looks):
            self._looks, self._moved = looks, time.monotonic()
        worker = self.supervised()
        if time.monotonic() - self._moved < DEAF:
            return worker
        worker.kill()
        return self.supervised()

    def wait_for_handler(
        self, receiver: str, meanwhile: Callable[[], object] = lambda: None, timeout: float = 120
    ) -> int:
        """Wait until a handler of `receiver` begins; the number of its process."""

        def begun() -> list[str]:
            meanwhile()
            return [line for line in self._lines("begun.log") if line.startswith(receiver)]

        before = len(begun())
        wait_for(lambda: len(begun()) > before, f"a handler of {receiver!r} to begin", timeout, poll=0.005)
        return int(begun()[-1].split()[-1])

    def bitten(self, at_once: int = 0) -> bool:
        """Whether the control has been interrupted before its writes, of which no message is left to tell.

        `at_once`: handlers that may be under way just now.
        """
        begun, written = (
            sum(line.startswith("by hand ") for line in self._lines(name)) for name in ("begun.log", "outside.log")
        )
        return begun - written > at_once

    # what came of it

    def waiting(self) -> list[int]:
        """The deliveries that are not finished."""
        return list(self._open().values_list("pk", flat=True))

    def outstanding(self) -> int:
        return int(self._open().count())

    def _open(self) -> Any:
        return Delivery.objects.using(self.alias).filter(due_at__isnull=False)

    def converge(self, stalled: float = 120, meanwhile: Callable[[], object] = lambda: None) -> float:
        """Wait until all is done, or nothing has moved for `stalled` seconds; seconds until ours was done."""
        started = time.monotonic()
        self._settled(lambda: self.outstanding() or None, stalled, meanwhile)
        seconds = time.monotonic() - started
        # The control has no rows: it is done when its queue is empty and no effect comes any more.
        self._settled(lambda: depth(self.broker) or None, stalled, meanwhile)
        self._settled(self._effects(CONTROL).count, QUIET, meanwhile)
        return seconds

    def _settled(self, look: Callable[[], object], still: float, meanwhile: Callable[[], object]) -> None:
        """Wait until `look` finds None, or the same for `still` seconds."""
        before, since = look(), time.monotonic()
        while before is not None and time.monotonic() - since < still:
            meanwhile()
            time.sleep(0.05)
            if (now := look()) != before:
                before, since = now, time.monotonic()

    def _effects(self, receivers: list[str]) -> Any:
        return Effect.objects.using(self.alias).filter(receiver__in=receivers)

    def verdict(self) -> dict[str, object]:
        """The figures of every run, by the names of the table's columns."""
        intents = list(Intent.objects.using(self.alias).values_list("pk", "name"))
        saved = {str(pk): float(name.split()[1]) for pk, name in intents}
        poisoned = {("first", str(pk)) for pk, name in intents if name.endswith(POISON)}
        ours = {(receiver, str(pk)) for pk, name in intents if _is(name, "ours") for receiver in OURS} - poisoned
        control = {(receiver, str(pk)) for pk, name in intents if _is(name, "control") for receiver in CONTROL}
        effects = list(self._effects(OURS).values_list("receiver", "object_pk", "note"))
        times = Counter((receiver, pk) for receiver, pk, _ in effects)
        latency = sorted(1000 * (float(note) - saved[pk]) for _, pk, note in effects if pk in saved)
        outside = Counter(tuple(line.rsplit(" ", 1)) for line in self._lines("outside.log"))
        by_hand = set(self._effects(CONTROL).values_list("receiver", "object_pk"))
        figures: dict[str, object] = {
            "kills": self.kills,
            "deliveries": len(ours),
            "lost": len(ours - set(times)),
            "ghosts": sum(pk not in saved for _, pk in times),
            "doubled": sum(times.values()) - len(times),
            "stalled": self.outstanding(),
            "outside_doubled": sum(count - 1 for (name, _), count in outside.items() if name in OURS),
        }
        if control:
            figures["control_lost"] = f"{len(control - by_hand)} of {len(control)}"
        if len(latency) > 1:
            figures |= {"p50_ms": statistics.median(latency), "p99_ms": _p99(latency)}
        return figures | self._requests()

    def _requests(self) -> dict[str, object]:
        figures: dict[str, object] = {}
        for code in ("ours", "both"):
            seconds = [float(line.split()[1]) for line in self._lines(f"requests-{code}.log")]
            if len(seconds) > 1:
                figures |= {"save_p99_ms": 1000 * _p99(seconds)}
                figures |= {"save_max_ms": 1000 * max(seconds)}
        return figures

    def requests(self, code: str) -> list[tuple[float, float, str]]:
        """(begin, seconds, error) of each request of the mills with this code."""
        lines = [line.split(" ") for line in self._lines(f"requests-{code}.log")]
        return [(float(begin), float(seconds), error) for begin, seconds, error in lines]

    def _lines(self, name: str) -> list[str]:
        path = self.site.scratch / name
        return path.read_text().splitlines() if path.exists() else []

    def control_lost(self) -> bool:
        """Whether the control has lost anything, now that nothing moves any more."""
        return not str(self.verdict().get("control_lost", "0 ")).startswith("0 ")

    def check(self, bites: bool = True, **besides: object) -> dict[str, object]:
        """The verdict, which has to be: nothing lost, no ghost, nothing doubled, nothing stalled.

        `bites`: the control has to show a loss, or the fault did nothing.
        """
        figures = {**self.verdict(), **besides}
        assert figures["deliveries"], "nothing was saved"
        wrong = {name: figures[name] for name in ("lost", "ghosts", "doubled", "stalled") if figures[name]}
        assert not wrong, f"{wrong}; {figures}"
        if bites:
            assert self.control_lost(), f"the fault did not bite: {figures}"
        return figures


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _is(name: str, code: str) -> bool:
    return name.split()[0] in (code, "both")
