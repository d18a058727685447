"""The Celery side: one task for each receiver, named after it, and the relay that each worker runs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import celery
import celery.exceptions
from celery import signals as celery_signals, states as celery_states
from celery.app.task import Context
from django.core.signing import BadSignature
from django.db import connections

from . import codec, conf, execute, outcomes, signals, wire
from .event import Event, Outcome, Result
from .exceptions import DecodeError, MessageRefused
from .load import Loader
from .outcomes import classify
from .receivers import registry

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

logger = logging.getLogger("signalq.tasks")

MAX_IDS = 10_000
"""Row numbers that one message may hold: far beyond any CHUNK, so that a forged one cannot exhaust the worker."""


def connect() -> None:
    """Make a Celery task of each receiver, and run a relay with each worker. Called by AppConfig.ready."""
    registry.listen(_register)
    outcomes.MISTAKEN[celery.exceptions.Retry] = (
        "Celery's retry belongs to a Celery task; raise signalq.Retry(countdown=...) in a handler."
    )
    for signal, state in _RESULT_STATES.items():
        signal.connect(_store_result, dispatch_uid=f"signalq.result.{state}")
    celery_signals.worker_ready.connect(_start_relay, dispatch_uid="signalq.relay")
    celery_signals.worker_shutting_down.connect(_stop_relay, dispatch_uid="signalq.relay")


_RESULT_STATES = {
    signals.delivery_done: celery_states.SUCCESS,
    signals.delivery_retried: celery_states.RETRY,
    signals.delivery_dead: celery_states.FAILURE,
    signals.delivery_discarded: celery_states.IGNORED,
}


def _store_result(sender: Receiver, signal: Any, delivery: Any, outcome: Outcome, **kwargs: Any) -> None:
    """``ignore_result=False``: the outcome of a durable delivery under its event's id, also when it came in a chunk."""
    if sender.options.ignore_result:
        return
    app = wire.celery_app()
    error, state = outcome.error, _RESULT_STATES[signal]
    text = "".join(traceback.format_exception(error)) if error is not None else None
    result = outcome.value if error is None else error if state in celery_states.EXCEPTION_STATES else str(error)
    app.backend.store_result(
        str(delivery.event_id),
        result,
        state,
        traceback=text,
        request=Context(task=sender.name, id=str(delivery.event_id), retries=delivery.attempt - 1),
    )


def _register(receiver: Receiver) -> None:
    options = receiver.options
    task_options: dict[str, Any] = {
        "bind": True,
        # What arrives is checked here and not by Celery, whose error would quote the arguments.
        "typing": False,
        "ignore_result": options.durable or options.ignore_result,
        # A transient message is all there is of its event, so it is acknowledged after the work.
        "acks_late": not options.durable,
        "max_retries": options.max_retries,
        # Not "queue": Celery has deprecated that attribute of a task.
        wire.QUEUE_ATTRIBUTE: options.queue,
    }
    for limit in ("time_limit", "soft_time_limit"):
        if getattr(options, limit) is not None:
            task_options[limit] = getattr(options, limit)
    for name in receiver.names:
        # What was registered before stays: the task finds the new handler by its name.
        if name not in _named:
            _named.add(name)
            # shared_task registers it on the app that is loaded and on any that comes later.
            make: Any = celery.shared_task(name=name, **task_options)
            make(_body(name))


_named: set[str] = set()


def _body(name: str) -> Any:
    def task(self: Any, *arguments: Any, **keywords: Any) -> Any:
        receiver = registry.get(name)
        try:
            if receiver is None:
                raise MessageRefused("there is no such receiver any more")
            if keywords:
                raise MessageRefused("it has keyword arguments")
            if receiver.options.durable:
                return _durable(receiver, *_checked(arguments, 2))
            return _transient(self, receiver, *_checked(arguments, 1))
        except MessageRefused as refusal:
            signals.message_refused.send_robust(name, reason=str(refusal))
            return None

    task.__doc__ = registry[name].__doc__
    return task


def _checked(arguments: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(arguments) != count:
        raise MessageRefused(f"it has {len(arguments)} arguments instead of {count}")
    return arguments


def _durable(receiver: Receiver, using: Any, ids: Any) -> None:
    """A wake-up call: [alias, row numbers]. Whatever it says, only rows that are queued for this receiver run."""
    if not isinstance(using, str) or using not in connections:
        raise MessageRefused("it names a database that is not in DATABASES")
    if not isinstance(ids, list) or len(ids) > MAX_IDS:
        raise MessageRefused("it holds no list of row numbers")
    if not all(type(pk) is int and 0 < pk < 2**63 for pk in ids):
        raise MessageRefused("it holds something that is no row number")
    if ids:
        execute.run(receiver, using, ids)


def _transient(task: Any, receiver: Receiver, signed: Any) -> Any:
    """The event itself, signed. Retries are Celery's own."""
    event = _verified(receiver, signed)
    attempt = task.request.retries + 1
    try:
        return execute.call(receiver, event, attempt, Loader())
    except Exception as error:
        outcome = classify(receiver, attempt, error)
        if outcome.result is Result.RETRY:
            _log(logger.warning, receiver, event, outcome)
            raise task.retry(exc=error, countdown=outcome.countdown, argsrepr="...", kwargsrepr="{}") from error
        if outcome.result is Result.DISCARDED:
            _log(logger.info, receiver, event, outcome)
            return None
        raise


def _log(log: Any, receiver: Receiver, event: Event, outcome: Outcome) -> None:
    log("%s event %s: %s, %s", receiver.name, event.id, outcome.result.value, type(outcome.error).__name__)


def _verified(receiver: Receiver, signed: Any) -> Event:
    """The event of a transient message. Raises MessageRefused unless it was signed by us for this receiver."""
    if not isinstance(signed, str):
        raise MessageRefused("it holds no signed event")
    try:
        name, _, text = wire.signer().unsign(signed).partition("\n")
        if name not in receiver.names:
            raise MessageRefused("it was signed for another receiver")
        return codec.load_event(text)
    except BadSignature as error:
        raise MessageRefused("its signature is not valid: is SECRET_KEY the same in the web process?") from error
    except DecodeError as error:
        raise MessageRefused(str(error)) from error


class _RelayChild:
    """The relay of this worker: a child process, started again if it dies, that ends with its parent."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = threading.Event()

    def start(self) -> None:
        self.stopping.clear()
        threading.Thread(target=self._keep, name="signalq-relay-keeper", daemon=True).start()

    def _keep(self) -> None:
        wait = 1.0
        while not self.stopping.is_set():
            started = time.monotonic()
            self.process = subprocess.Popen(self._command(), env=self._environment(), stdin=subprocess.DEVNULL)  # noqa: S603
            code = self.process.wait()
            if self.stopping.is_set():
                return
            wait = 1.0 if time.monotonic() - started > 60 else min(wait * 2, 60.0)
            logger.error("The relay ended with code %s; it is started again in %.0f s.", code, wait)
            self.stopping.wait(wait)

    def stop(self) -> None:
        self.stopping.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    @staticmethod
    def _command() -> list[str]:
        return [sys.executable, "-m", "django", "signalq", "relay", "--parent", str(os.getpid())]

    @staticmethod
    def _environment() -> dict[str, str]:
        # The worker's own import path: celery adds the working directory, -A may have added another.
        return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


_relay = _RelayChild()


def _start_relay(**kwargs: Any) -> None:
    if conf.current().RELAY:
        _relay.start()


def _stop_relay(**kwargs: Any) -> None:
    _relay.stop()
