"""The Celery side: one task for each receiver, named after it."""

from __future__ import annotations

import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import celery
import celery.exceptions
from celery import states as celery_states
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from django.core.signing import BadSignature
from django.db import connections

from . import codec, conf, execute, outcomes, probe, signals, wire
from .context import CurrentDelivery
from .event import Event, Outcome, Result
from .exceptions import DecodeError, MessageRefused
from .load import Loader
from .outcomes import classify
from .receivers import registry
from .settle import tell
from .texts import message, printable

if TYPE_CHECKING:
    from .receivers import AsyncReceiver

    Receiver = AsyncReceiver[..., Any]

MAX_IDS = 10_000
"""Row numbers that one message may hold, or CHUNK if that is more: a forged one cannot exhaust the worker."""


def connect() -> None:
    """Make a Celery task of each receiver. Called by AppConfig.ready."""
    registry.listen(_register)
    celery.shared_task(name=probe.NAME, typing=False, ignore_result=True)(_answer)
    outcomes.MISTAKEN[celery.exceptions.Retry] = (
        "Celery's retry belongs to a Celery task; raise signalq.Retry(countdown=...) in a handler."
    )
    if SoftTimeLimitExceeded not in codec.INTERRUPTIONS:
        codec.INTERRUPTIONS = (*codec.INTERRUPTIONS, SoftTimeLimitExceeded)
    for signal, state in _RESULT_STATES.items():
        signal.connect(_store_result, dispatch_uid=f"signalq.result.{state}")
    logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_body)


_RESULT_STATES = {
    signals.delivery_done: celery_states.SUCCESS,
    signals.delivery_retried: celery_states.RETRY,
    signals.delivery_dead: celery_states.FAILURE,
    signals.delivery_discarded: celery_states.IGNORED,
}


def _without_body(record: logging.LogRecord) -> bool:
    """Celery logs the whole of a message whose task is unknown: of a transient one that is the event itself."""
    arguments = record.args
    # By its first words: importing the module that has them would load the worker into the web process.
    unknown = str(record.msg).startswith("Received unregistered task of type")
    if unknown and isinstance(arguments, tuple) and len(arguments) == 4:
        error, _body, headers, info = arguments
        if isinstance(headers, dict) and wire.HEADER in headers:
            record.args = (error, "(left out: an event)", headers, info)
    return True


def _store_result(sender: Receiver, signal: Any, delivery: Any, outcome: Outcome, **kwargs: Any) -> None:
    """``ignore_result=False``: the outcome of a durable delivery, also when it came in a chunk."""
    if sender.options.ignore_result or delivery.pk is None:
        return
    app = wire.celery_app()
    error, state = outcome.error, _RESULT_STATES[signal]
    text = printable("".join(traceback.format_exception(error))) if error is not None else None
    result = outcome.value if error is None else error if state in celery_states.EXCEPTION_STATES else message(error)
    app.backend.store_result(
        delivery.result_id,
        result,
        state,
        traceback=text,
        request=Context(task=sender.name, id=delivery.result_id, retries=delivery.attempt - 1),
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
    def task(self: Any, /, *arguments: Any, **keywords: Any) -> Any:
        receiver = registry.get(name)
        try:
            if receiver is None:
                raise MessageRefused("there is no such receiver any more")
            if keywords:
                raise MessageRefused("it has keyword arguments")
            if receiver.options.durable:
                _check_limits(self)
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


def _check_limits(task: Any) -> None:
    """A time limit in a message counts instead of the receiver's, and three that are too short make a dead letter."""
    own = (task.time_limit, task.soft_time_limit)
    for asked, limit in zip(task.request.timelimit or (None, None), own, strict=False):
        if asked is not None and (limit is None or asked < limit):
            raise MessageRefused("its time limit is shorter than the receiver's")


def _durable(receiver: Receiver, using: Any, ids: Any) -> None:
    """A wake-up call: [alias, row numbers]. Whatever it says, only rows that are queued for this receiver run."""
    if checked := _wake(using, ids):
        execute.run(receiver, using, checked)


def _wake(using: Any, ids: Any) -> list[int]:
    if not isinstance(using, str) or using not in connections:
        raise MessageRefused("it names a database that is not in DATABASES")
    if not isinstance(ids, list) or len(ids) > max(MAX_IDS, conf.current().CHUNK):
        raise MessageRefused("it holds no list of row numbers")
    if not all(type(pk) is int and 0 < pk < 2**63 for pk in ids):
        raise MessageRefused("it holds something that is no row number")
    return ids


def _answer(*arguments: Any, **keywords: Any) -> None:
    """Of ``manage.py signalq status --probe``; a forged one can do nothing but end a probe."""
    try:
        using, ids = _checked(arguments, 2)
        probe.answer(using, _wake(using, ids))
    except MessageRefused as refusal:
        signals.message_refused.send_robust(probe.NAME, reason=str(refusal))


def _transient(task: Any, receiver: Receiver, signed: Any) -> Any:
    """The event itself, signed. Retries are Celery's own."""
    delivery = signals.Transient(_verified(receiver, signed), task.name, task.request.retries + 1)
    signals.delivery_started.send_robust(receiver, delivery=delivery, event=delivery.event)
    started = time.monotonic()
    try:
        value = execute.call(receiver, CurrentDelivery(delivery.event, task.name, delivery.attempt), Loader())
    except Exception as error:
        outcome = classify(receiver, delivery.attempt, error)
        tell(receiver, delivery, outcome, time.monotonic() - started)
        if outcome.result is Result.RETRY:
            raise task.retry(exc=error, countdown=outcome.countdown, argsrepr="...", kwargsrepr="{}") from error
        if outcome.result is Result.DISCARDED:
            return None
        raise
    tell(receiver, delivery, Outcome(Result.DONE, value=value), time.monotonic() - started)
    return value


def _verified(receiver: Receiver, signed: Any) -> Event:
    """The event of a transient message.

    Raises MessageRefused unless it was signed by us for this receiver, and not longer ago than its ``expires``. That
    holds for each of its retries too, as for a durable delivery: how often it was tried is in no signed place.
    """
    if not isinstance(signed, str):
        raise MessageRefused("it holds no signed event")
    expires = receiver.options.expires
    try:
        name, recorded_at, text = wire.unseal(signed)
        if name not in receiver.names:
            raise MessageRefused("it was signed for another receiver")
        if expires is not None and time.time() - recorded_at > expires:
            raise MessageRefused(f"it has expired, {expires:g} s after it was recorded")
        return codec.load_event(text)
    except BadSignature as error:
        raise MessageRefused("its signature is not valid: is SECRET_KEY the same in the web process?") from error
    except DecodeError as error:
        raise MessageRefused(str(error)) from error
    except ValueError as error:
        raise MessageRefused("what was signed is no event") from error
