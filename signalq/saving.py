"""``AtomicSave``: in autocommit, too, a row and its events commit together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.db import connections, router, transaction

if TYPE_CHECKING:
    from django.db.models import Model as _Base
else:
    # Not a model: it can be imported before the apps are ready.
    _Base = object


class AtomicSave(_Base):
    """Mixin, ahead of Model, whose ``save`` and ``delete`` (``asave``, ``adelete``, ``create`` too) are transactions.

    Without one Django commits a row before it sends ``post_save``, and a process that dies in between loses the event.
    The transaction is on the alias that is written: ``using=``, else what the routers say. In one that is open already
    nothing is added.
    """

    if TYPE_CHECKING:

        class Meta:
            abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As Model.save, in a transaction."""
        # Before Django 6.1 the alias may come by its place, as the third.
        using = kwargs.get("using") or (args[2] if len(args) > 2 else None)
        with _atomic(self, using):
            super().save(*args, **kwargs)

    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """As Model.delete, in a transaction."""
        with _atomic(self, using):
            return super().delete(using=using, keep_parents=keep_parents)

    # As Django marks its own: templates must not call them.
    save.alters_data = True  # type: ignore[attr-defined]
    delete.alters_data = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def _atomic(instance: Any, using: str | None) -> Iterator[None]:
    alias = using or router.db_for_write(type(instance), instance=instance)
    if connections[alias].in_atomic_block:
        yield  # a savepoint would cost two queries, and add nothing
        return
    with transaction.atomic(using=alias):
        yield
