"""What a receiver may be told: the options with their defaults, and the errors for what they cannot be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, TypedDict

from django.db.models.signals import ModelSignal
from django.dispatch import Signal

from .conditions import Condition
from .exceptions import RegistrationError
from .retry import Policy

COLUMN = 255
"""Characters of a name that the outbox holds."""


class OptionsDict(TypedDict, total=False):
    """The keyword arguments of ``async_receiver``, for type checkers; Options says what each means."""

    sender: Any
    when: Condition | Callable[..., object] | None
    subclasses: bool
    raw: bool
    using: str | None
    omit: Iterable[str]
    name: str | None
    aliases: Iterable[str]
    dispatch_uid: str | None
    weak: bool
    durable: bool
    atomic: bool
    snapshot: bool | Iterable[str]
    coalesce: float | timedelta | None
    ordered: bool
    key: Callable[..., object] | str | None
    countdown: float | timedelta
    expires: float | timedelta | None
    max_retries: int | None
    retry_backoff: float | bool
    retry_backoff_max: float
    retry_jitter: bool
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    queue: str | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool


@dataclass(frozen=True)
class Options:
    """A receiver's options with their defaults. Durations are in seconds and accept a timedelta."""

    sender: Any = None
    """A model class, ``"app.Model"``, a list of either, or any object for custom signals; None: any."""
    when: Condition | Callable[..., object] | None = None
    """Called with the signal's arguments in the sender's process; false: this receiver is left out."""
    raw: bool = False
    """Also events from loaddata."""
    using: str | None = None
    """Only events of this alias; for custom signals the alias whose transaction they wait for."""
    omit: tuple[str, ...] = ()
    """Arguments not to carry."""
    name: str | None = None
    """The stable name; by default ``module.function``."""
    aliases: tuple[str, ...] = ()
    """Old names that it still serves."""
    subclasses: bool = False
    """Also concrete children and proxies of the sender; abstract bases are allowed then."""
    durable: bool = True
    """True: a row in the outbox. False: one signed Celery message alone."""
    atomic: bool = True
    """Run the handler in the transaction that marks the delivery done (durable only)."""
    snapshot: bool | tuple[str, ...] = False
    """Hand over the instance as it was, or these fields of it; deletions and pre_save always do."""
    coalesce: float | None = None
    """Wait this long (0, too), and run the deliveries of one object that wait together once, as one."""
    ordered: bool = False
    """Run the deliveries of one object strictly one after another."""
    key: Callable[..., object] | str | None = None
    """What "one object" means for coalesce and ordered: a callable with the signal's arguments, or a field's name."""
    countdown: float = 0.0
    """Wait this long before the first attempt."""
    expires: float | None = None
    """Discard what was not begun this long after it was recorded."""
    max_retries: int | None = 20
    """Attempts after the first one; then the delivery is dead. None: for ever; 0: one attempt."""
    retry_backoff: float = 1.0
    """The wait before the first retry; it doubles with each."""
    retry_backoff_max: float = 3600.0
    """The longest wait between two attempts."""
    retry_jitter: bool = True
    """Wait for a random time between nothing and that, so that what failed together does not come back together."""
    autoretry_for: tuple[type[BaseException], ...] = (Exception,)
    """Errors that are tried again; any other makes the delivery dead at once."""
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    """Errors that make the delivery dead at once all the same."""
    queue: str | None = None
    """The Celery queue; None: where Celery's routes send the task, which has the receiver's name."""
    time_limit: float | None = None
    """As in Celery: the worker's child process is killed after this."""
    soft_time_limit: float | None = None
    """As in Celery: SoftTimeLimitExceeded is raised in the handler after this."""
    ignore_result: bool = True
    """False: store each delivery's outcome in Celery's result backend, under ``Delivery.result_id``."""

    @property
    def travels_alone(self) -> bool:
        """One delivery a message: nothing shares the fate of an effect outside the database, or a time limit."""
        return not self.atomic or self.time_limit is not None or self.soft_time_limit is not None

    @property
    def policy(self) -> Policy:
        """The retry options as a policy."""
        return Policy(
            self.max_retries,
            self.retry_backoff,
            self.retry_backoff_max,
            self.retry_jitter,
            self.autoretry_for,
            self.dont_autoretry_for,
        )

    @property
    def senders(self) -> list[Any]:
        """Each sender to connect to; ``[None]`` for any."""
        return list(self.sender) if isinstance(self.sender, list | tuple | set) else [self.sender]


def read(given: dict[str, Any]) -> Options:
    """The options as they were given to the decorator, checked one by one and together."""
    known = OptionsDict.__annotations__
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
            raise TypeError(f"async_receiver() got an unknown option {option!r}; {hint}")
    if given.pop("weak", False):
        raise RegistrationError("weak=True is refused: a worker cannot hold a handler that may be collected.")
    uid = given.pop("dispatch_uid", None)
    if uid is not None:
        name = given.get("name")
        if name not in (None, str(uid)):
            raise RegistrationError(f"dispatch_uid={uid!r} contradicts name={name!r}: it is taken as the name.")
        given["name"] = str(uid)
    for option, kind in _LISTS.items():
        if option in given:
            given[option] = _tuple(option, kind, given[option])
    if not isinstance(given.get("snapshot", False), bool):
        given["snapshot"] = _tuple("snapshot", str, given["snapshot"])
        if not given["snapshot"]:
            raise TypeError("snapshot=[] names no field: snapshot=True means all of them.")
    for option in _DURATIONS:
        if option in given and not (given[option] is None and option in _OPTIONAL):
            given[option] = _seconds(option, given[option])
    options = Options(**given)
    _check_values(options, given)
    return options


_LISTS: dict[str, type] = {
    "omit": str,
    "aliases": str,
    "autoretry_for": BaseException,
    "dont_autoretry_for": BaseException,
}
_OPTIONAL = {"time_limit", "soft_time_limit", "coalesce", "expires"}
_DURATIONS = ("countdown", "retry_backoff", "retry_backoff_max", *sorted(_OPTIONAL))


def _check_values(options: Options, given: Mapping[str, Any]) -> None:
    if options.when is not None and not callable(options.when):
        raise TypeError(f"when={options.when!r} is not callable. Did you mean Created(), with parentheses?")
    if isinstance(options.when, type) and issubclass(options.when, Condition):
        raise TypeError(f"when={options.when.__name__} is a class: write {options.when.__name__}().")
    retries = options.max_retries
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise TypeError(f"max_retries={retries!r} must be a whole number from 0, or None for ever.")
    if options.snapshot and not options.durable:
        raise RegistrationError(
            "durable=False contradicts snapshot=...: what is not recorded is for what may be lost, with small messages."
        )
    if options.subclasses and any(sender is None for sender in options.senders):
        raise RegistrationError("subclasses=True needs sender=...: without one, every model is a sender already.")
    if not options.durable and "atomic" in given:
        raise RegistrationError(
            "durable=False contradicts atomic=...: a transient delivery has no row to settle with the handler's writes."
        )
    if not options.durable and (options.ordered or options.coalesce is not None):
        raise RegistrationError(
            "durable=False contradicts ordered=True and coalesce=...: a transient delivery has no row that could wait."
        )
    if options.time_limit is not None and (options.soft_time_limit or 0) >= options.time_limit:
        raise RegistrationError(
            f"soft_time_limit={options.soft_time_limit:g} contradicts time_limit={options.time_limit:g}: "
            "the soft one must come first."
        )
    wait = options.countdown if options.coalesce is None else options.coalesce
    if options.expires is not None and options.expires <= wait:
        what = "countdown" if options.coalesce is None else "coalesce"
        raise RegistrationError(
            f"expires={options.expires:g} contradicts {what}={wait:g}: it would always expire before it runs."
        )
    for field in fields(Options):
        value = getattr(options, field.name)
        if field.type == "bool" and not isinstance(value, bool):
            raise TypeError(f"{field.name}={value!r} must be True or False.")
        if field.type == "str | None" and not (value is None or (isinstance(value, str) and value)):
            raise TypeError(f"{field.name}={value!r} must be a text, and not an empty one.")
    for alias in options.aliases:
        checked_name(alias)


def check_key(signals: tuple[Signal, ...], options: Options) -> None:
    """Raise for options about "one object" that say nothing, or where nothing says which object."""
    wanting = "coalesce" if options.coalesce is not None else "ordered" if options.ordered else None
    if wanting is None and options.key is not None:
        raise RegistrationError("key= has a meaning with coalesce= or ordered=True only.")
    if wanting and options.key is None and not all(isinstance(signal, ModelSignal) for signal in signals):
        raise RegistrationError(f"{wanting} needs key=...: the signal may be sent without an instance.")
    if options.coalesce is not None and options.countdown:
        raise RegistrationError("coalesce contradicts countdown: it is itself how long to wait.")
    if options.key is not None and not (callable(options.key) or isinstance(options.key, str)):
        raise TypeError(f"key={options.key!r} must be a callable or the name of a field.")


def checked_name(name: str) -> str:
    """``name``, if it can name a receiver, its task and its column in the outbox."""
    if not name or len(name) > COLUMN or not name.isprintable():
        raise RegistrationError(
            f"The name {name!r} cannot be used: it must have 1 to {COLUMN} printable characters. Pass name=..."
        )
    return name


def _tuple(option: str, kind: type, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        raise TypeError(f"{option}={value!r} must be a list: write {option}=[{value!r}].")
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    for item in values:
        if not (isinstance(item, str) if kind is str else isinstance(item, type) and issubclass(item, kind)):
            what = "texts" if kind is str else "exception classes"
            raise TypeError(f"{option}={value!r} must be a list of {what}; {item!r} is none.")
    return values


def _seconds(option: str, value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    # Celery's retry_backoff may be True: one second.
    wrong = isinstance(value, bool) and option != "retry_backoff"
    if wrong or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise TypeError(f"{option}={value!r} must be seconds or a timedelta, at least 0.")
    return float(value)
