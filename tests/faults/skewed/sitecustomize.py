"""A wall clock that is hours off: time.time and datetime's now, here and in children. Monotonic time stays."""

import datetime
import os
import time

SECONDS = 3600 * float(os.environ.get("SIGNALQ_FAULTS_HOURS", "0"))
_time, _datetime = time.time, datetime.datetime


class _Instances(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)


class Shifted(_datetime, metaclass=_Instances):
    """datetime with another idea of now; what it makes are plain ones."""

    def __new__(cls, *arguments, **keywords):  # type: ignore[no-untyped-def]
        return _datetime(*arguments, **keywords)

    @classmethod
    def now(cls, tz=None):  # type: ignore[no-untyped-def]
        return _datetime.now(tz) + datetime.timedelta(seconds=SECONDS)

    @classmethod
    def utcnow(cls):  # type: ignore[no-untyped-def]
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)


time.time = lambda: _time() + SECONDS
datetime.datetime = Shifted  # type: ignore[misc]
