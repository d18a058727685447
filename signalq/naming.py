"""Names that mean the same in every process: of signals, and of classes."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from django.dispatch import Signal

from .exceptions import DecodeError, RegistrationError

_names: dict[Signal, str] = {}


def signal_name(signal: Signal) -> str:
    """The dotted name of a module-level signal: the same in every process.

    Raises RegistrationError if there is none.
    """
    if signal not in _names:
        found = [
            f"{module_name}.{name}"
            for module_name, module in list(sys.modules.items())
            for name, value in list(getattr(module, "__dict__", {}).items())
            if value is signal
        ]
        if not found:
            raise RegistrationError(
                f"{signal!r} is no module-level variable, so that no worker could find it: "
                "assign it in a module, as in order_paid = Signal()."
            )
        # A module that imports the signal holds it too; where it is defined is mostly called "signals".
        _names[signal] = min(found, key=_likeliness)
    return _names[signal]


def _likeliness(name: str) -> tuple[Any, ...]:
    module = name.rpartition(".")[0]
    return module == "__main__", not module.endswith("signals"), len(name), name


def signal_of(name: str, signals: Mapping[str, Signal]) -> Signal | None:
    """Which of ``signals``, named as in this process, was called ``name`` in another; None if it is none of them.

    Where several modules hold one signal, the name depends on which of them a process has loaded.
    """
    if name in signals:
        return signals[name]
    if len(signals) == 1:
        return next(iter(signals.values()))  # it was renamed
    module, _, variable = name.rpartition(".")
    named = getattr(sys.modules.get(module), "__dict__", {}).get(variable)
    alike = {known.rpartition(".")[2]: signal for known, signal in signals.items()}
    by_variable = alike.get(variable) if len(alike) == len(signals) and module not in sys.modules else None
    return next((signal for signal in signals.values() if signal is named), by_variable)


def global_name(value: Any) -> str | None:
    """``"module:qualname"`` of a class or function that can be found under it, else None."""
    qualname = getattr(value, "__qualname__", None)
    # NoneType, the sender when somebody anonymous logs out, claims to be in builtins and is not.
    for name in (f"{getattr(value, '__module__', None)}:{qualname}", f"types:{qualname}"):
        with contextlib.suppress(DecodeError):
            if find(name) is value:
                return name
    return None


_SENDERS = {"django.core.handlers.wsgi", "django.core.handlers.asgi"}


def find(name: str) -> Any:
    """What ``global_name`` named, in a module that is loaded. Raises DecodeError."""
    module_name, _, path = name.partition(":")
    if module_name in _SENDERS:
        # The one exception to "nothing is imported": the senders of request signals, which no worker loads.
        with contextlib.suppress(ImportError):
            importlib.import_module(module_name)
    found: Any = sys.modules.get(module_name)
    if found is None:
        raise DecodeError(f"{name!r} is in a module that is not loaded here: import it in an AppConfig.ready().")
    for part in path.split("."):
        # Not getattr: a module's own __getattr__ may import, and a property may do anything.
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    if found is None:
        raise DecodeError(f"{name!r} does not exist here. Was it renamed or removed?")
    return found
