"""What happens in the demo: people use the shop over HTTP, and things go wrong on the way."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Protocol, TypeVar

from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Max
from django_celery_results.models import TaskResult

from project.audit.models import Entry
from project.demo.browser import Browser, Refused
from project.demo.processes import until
from project.payments.receivers import capture_payment
from project.shop.models import Order, Product, Tag
from project.shop.receivers import notify_owner
from signalq.models import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from django.db.models import Model, QuerySet

    from project.demo.processes import Watched
    from project.mail import Mail

T = TypeVar("T")

State = Delivery.State

# fmt: off
NAMES = [
    "ada", "alan", "amara", "anders", "aiko", "bela", "boris", "carla", "chidi", "dana",
    "diego", "edith", "elif", "emil", "farah", "fatou", "finn", "greta", "hana", "hugo",
    "ines", "ivan", "jana", "joao", "kaito", "karim", "lena", "linus", "mara", "mei",
    "mila", "nadia", "nils", "olga", "omar", "pablo", "paula", "priya", "quinn", "rosa",
    "ruben", "saskia", "selma", "sofia", "tariq", "tessa", "uma", "viktor", "yara", "zoe",
]
# fmt: on
AT_ONCE = 4
ORDERS_BEFORE_THE_KILL = 25

UNFINISHED = (State.WAITING, State.QUEUED, State.RUNNING)


class Stage(Protocol):
    """Where the scenario is played: the processes of stack.py, or whatever else serves the demo at an address.

    The scenario talks HTTP to it. It reads the same database to know what has happened, as its checks do.
    """

    url: str

    @property
    def services(self) -> Sequence[Watched]: ...
    def kill_worker(self) -> None:
        """SIGKILL, to the worker and all its children."""

    def restart_worker(self) -> None:
        """See to it that there is one again."""

    def mails(self) -> list[Mail] | None:
        """What has been sent, the newest first; None if nobody keeps it."""


@dataclass
class Person:
    name: str
    browser: Browser
    orders: list[int] = field(default_factory=list)

    @property
    def email(self) -> str:
        return f"{self.name}@example.com"


class Scenario:
    """Run it with `play()`; what it did is then in its attributes, for checks.py to compare with what came of it."""

    def __init__(self, stage: Stage, say: Callable[[str], None]) -> None:
        self.stage, self.say = stage, say
        run = secrets.token_hex(2)  # The database may have seen other runs.
        self.people = [Person(f"{name}-{run}", Browser(stage.url)) for name in NAMES]
        self.operator = Browser(stage.url)
        self.first_delivery = _newest(Delivery)
        self.first_result = _newest(TaskResult)
        self.first_entry = _newest(Entry)
        self.products = list(Product.objects.order_by("pk").values_list("pk", flat=True))
        self.tags = list(Tag.objects.order_by("pk").values_list("pk", flat=True))
        self.without_newsletter: list[Person] = []
        self.rolled_back = 0
        self.dead: list[int] = []
        self.interrupted: list[int] = []
        self.deleted_orders: list[int] = []
        self.deleted_people: list[Person] = []

    def play(self) -> None:
        self.sign_up_everybody()
        self.shop_while_the_worker_is_killed()
        self.fail_for_good()
        self.replay()
        self.check_out()
        self.recover()
        self.delete()

    def deliveries(self) -> QuerySet[Delivery]:
        """Those of this run."""
        return Delivery.objects.filter(pk__gt=self.first_delivery)

    # --- the acts ---

    def sign_up_everybody(self) -> None:
        self.say("50 people sign up, five of them while the newsletter's receiver is disconnected")
        self._each(self.people[:40], self._sign_up)
        self.operator.post("accounts/newsletter/", connected="no")
        self.without_newsletter = self.people[40:45]
        self._each(self.without_newsletter, self._sign_up)
        self.operator.post("accounts/newsletter/", connected="yes")
        self._each(self.people[45:], self._sign_up)

    def shop_while_the_worker_is_killed(self) -> None:
        self.say("they order, edit and tag")
        background = ThreadPoolExecutor(1)
        try:
            rush = background.submit(self._each, enumerate(self.people), self._shop)
            orders = self.deliveries().filter(receiver=notify_owner.name)
            self._wait(lambda: orders.count() >= ORDERS_BEFORE_THE_KILL, "the first orders are placed")
            self.kill_the_worker()
            self.say("there is no worker, but the shop goes on; a new one is started")
            self.stage.restart_worker()
            rush.result()
        finally:
            background.shutdown(wait=False)
        self.say("one order is too large and rolled back")
        try:
            self.people[0].browser.post("shop/order/", product=self.products[0], quantity=9_999_999)
        except Refused:
            self.rolled_back += 1

    def kill_the_worker(self) -> None:
        self.say("in the rush, the worker and its children are killed with SIGKILL")
        running = self.deliveries().filter(state=State.RUNNING).order_by("pk")
        while not self.interrupted:
            self._wait(running.exists, "a handler is running")
            self.stage.kill_worker()
            # Locked: what it had already told the database to commit is waited for, and is no longer running then.
            with transaction.atomic():
                self.interrupted = list(running.select_for_update().values_list("pk", flat=True))
            if not self.interrupted:  # It had just finished when the signal came.
                self.stage.restart_worker()

    def fail_for_good(self) -> None:
        self.say("the payment gateway goes down, three check out")
        self.operator.post("payments/gateway/", up="no")
        self._each(self.people[:3], self._check_out)
        dead = self.deliveries().filter(receiver=capture_payment.name, state=State.DEAD).order_by("pk")
        self._wait(lambda: dead.count() == 3, "three payments are dead letters")
        self.dead = list(dead.values_list("pk", flat=True))

    def replay(self) -> None:
        self.say("the gateway is up again; one dead letter is replayed on the page, two on the command line")
        self.operator.post("payments/gateway/", up="yes")
        self.operator.post(f"replay/{self.dead[0]}/")
        call_command("signalq", "replay", *map(str, self.dead[1:]), stdout=StringIO())
        replayed = self.deliveries().filter(pk__in=self.dead, state=State.DONE)
        self._wait(lambda: replayed.count() == 3, "the replayed payments are done")

    def check_out(self) -> None:
        self.say("twelve more check out")
        self._each(self.people[3:15], self._check_out)

    def recover(self) -> None:
        self.say(f"what the killed worker held ({len(self.interrupted)}) is noticed when its lease runs out")
        self._wait(self._is_idle, "everything is done")

    def delete(self) -> None:
        self.say("ten people delete an order, five their account")
        self._each(self.people[20:30], self._delete_order)
        self._each(self.people[30:35], self._delete_account)
        self._wait(self._is_idle, "that is done, too")

    # --- what one person does ---

    def _sign_up(self, person: Person) -> None:
        person.browser.post("accounts/sign-up/", username=person.name, email=person.email)

    def _shop(self, numbered: tuple[int, Person]) -> None:
        number, person = numbered
        for quantity in (1, 2) if number % 2 else (1,):
            product = self.products[(number + quantity) % len(self.products)]
            person.browser.post("shop/order/", product=product, quantity=quantity)
        orders = Order.objects.filter(customer__username=person.name).order_by("pk")
        person.orders = list(orders.values_list("pk", flat=True))
        order = person.orders[0]
        if number % 5 < 2:
            person.browser.post(f"shop/order/{order}/edit/", quantity=3, note="a gift")
        if number % 5 < 3:
            person.browser.post(f"shop/order/{order}/tag/", tags=self.tags[:2])
        if number % 5 == 0:
            person.browser.post(f"shop/order/{order}/tag/", tags=self.tags[1:3])

    def _check_out(self, person: Person) -> None:
        person.browser.post(f"shop/order/{person.orders[0]}/check-out/")

    def _delete_order(self, person: Person) -> None:
        order = person.orders.pop(0)
        person.browser.post(f"shop/order/{order}/delete/")
        self.deleted_orders.append(order)

    def _delete_account(self, person: Person) -> None:
        person.browser.post("accounts/delete/")
        self.deleted_orders += person.orders
        self.deleted_people.append(person)

    # --- helpers ---

    def _each(self, items: Iterable[T], act: Callable[[T], None]) -> None:
        """A few at a time, as on a real site; the first error is raised here."""
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            list(pool.map(_closing(act), items))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest of the queue.

    def _is_idle(self) -> bool:
        return not self.deliveries().filter(state__in=UNFINISHED).exists()

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        until(condition, what, self.stage.services)


def _newest(model: type[Model]) -> int:
    """The highest number so far: what is above it is of this run."""
    newest: int = model._default_manager.aggregate(n=Max("pk"))["n"] or 0
    return newest


def _closing(act: Callable[[T], None]) -> Callable[[T], None]:
    def act_and_close(item: T) -> None:
        try:
            act(item)
        finally:
            connection.close()  # Each thread has one of its own, and the threads go.

    return act_and_close
