"""What must have come of the scenario: one function for each expectation, in the order in which they are listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.db.models import Count, F, Sum
from django_celery_results.models import TaskResult

from project.accounts.models import Profile, Subscription
from project.accounts.receivers import create_profile, send_welcome_email, subscribe_to_newsletter
from project.audit.models import Entry
from project.audit.receivers import record_change, record_deletion
from project.payments.models import Charge
from project.payments.receivers import capture_payment
from project.shop.models import CustomerTotal, Notification, Order, Product, Tag
from project.shop.receivers import book_courier, notify_owner
from signalq.models import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.models import QuerySet

    from project.demo.scenario import Scenario
    from project.mail import Mail

State = Delivery.State


@dataclass(frozen=True)
class Expectation:
    text: str
    expected: Any
    found: Any

    @property
    def holds(self) -> bool:
        return bool(self.expected == self.found)


class Checks:
    def __init__(self, scenario: Scenario, mails: list[Mail] | None) -> None:
        self.scenario = scenario
        self.mails = mails
        self.staying = [person for person in scenario.people if person not in scenario.deleted_people]
        names = [person.name for person in self.staying]
        self.users = get_user_model().objects.filter(username__in=names)

    def all(self) -> list[Expectation]:
        groups: list[Callable[[], list[Expectation]]] = [
            self.deliveries, self.sign_ups, self.orders, self.failures, self.kill, self.audit, self.activity,
        ]  # fmt: skip
        return [expectation for group in groups for expectation in group()]

    def of(self, receiver: Any) -> QuerySet[Delivery]:
        return self.scenario.deliveries().filter(receiver=receiver.name)

    def deliveries(self) -> list[Expectation]:
        everything = self.scenario.deliveries()
        return [
            Expectation("every delivery is done", everything.count(), everything.filter(state=State.DONE).count()),
        ]

    def sign_ups(self) -> list[Expectation]:
        people = len(self.scenario.people)
        mailed = {message.to for message in self.mails or ()}
        greeted = sum(person.email in mailed for person in self.scenario.people)
        newsletter = people - len(self.scenario.without_newsletter)
        without = [person.name for person in self.scenario.without_newsletter]
        return [
            Expectation("a profile for each sign-up", people, self.of(create_profile).count()),
            Expectation(
                "and exactly one, for all who stayed",
                self.users.count(),
                Profile.objects.filter(user__in=self.users).count(),
            ),
            Expectation("a welcome mail delivery for each sign-up", people, self.of(send_welcome_email).count()),
            *([Expectation("everybody has got the welcome mail", people, greeted)] if self.mails is not None else []),
            Expectation("no delivery while disconnected", newsletter, self.of(subscribe_to_newsletter).count()),
            Expectation(
                "and no newsletter for those five", 0, Subscription.objects.filter(user__username__in=without).count()
            ),
        ]

    def orders(self) -> list[Expectation]:
        placed = sum(len(person.orders) for person in self.staying) + len(self.scenario.deleted_orders)
        orders = Order.objects.filter(customer__in=self.users)
        amount = Sum(F("quantity") * F("product__price"))
        totals = CustomerTotal.objects.filter(customer__in=self.users)
        return [
            Expectation("the order that was too large was refused", 1, self.scenario.rolled_back),
            Expectation("and no receiver heard of it", placed, self.of(notify_owner).count()),
            Expectation(
                "one notice for each order, exactly",
                placed - self._orders_of_deleted(),
                Notification.objects.filter(owner__in=self.users).count(),
            ),
            Expectation(
                "the stock is right for every product",
                _pairs(Product.objects.annotate(n=Sum("orders__quantity", default=0)).values_list("pk", "n")),
                _pairs(Product.objects.values_list("pk", "sold")),
            ),
            Expectation(
                "the total is right for every customer",
                _pairs(orders.values("customer").annotate(n=amount).values_list("customer", "n")),
                _pairs(totals.filter(orders__gt=0).values_list("customer", "amount")),
            ),
            Expectation(
                "the count is right for every tag",
                _pairs(Tag.objects.annotate(n=Count("orders")).values_list("pk", "n")),
                _pairs(Tag.objects.values_list("pk", "orders_count")),
            ),
        ]

    def _orders_of_deleted(self) -> int:
        return sum(len(person.orders) for person in self.scenario.deleted_people)

    def failures(self) -> list[Expectation]:
        couriers = self.of(book_courier)
        checked_out = Order.objects.filter(customer__in=self.users, checked_out=True)
        charged = Charge.objects.filter(order_id__in=checked_out.values("pk"))
        return [
            Expectation("a courier for each check-out", 15, checked_out.exclude(courier="").count()),
            Expectation("each at the third attempt or later", 15, couriers.filter(attempt__gte=3).count()),
            Expectation("three payments failed for good", 3, len(self.scenario.dead)),
            Expectation(
                "and were done once replayed",
                3,
                self.of(capture_payment).filter(pk__in=self.scenario.dead, state=State.DONE).count(),
            ),
            Expectation("every check-out was charged exactly once", 15, charged.count()),
        ]

    def kill(self) -> list[Expectation]:
        interrupted = self.scenario.deliveries().filter(pk__in=self.scenario.interrupted)
        return [
            Expectation("the killed worker left deliveries behind", True, bool(self.scenario.interrupted)),
            Expectation(
                "all of them were noticed and done",
                len(self.scenario.interrupted),
                interrupted.filter(state=State.DONE, lost_leases__gte=1).count(),
            ),
        ]

    def audit(self) -> list[Expectation]:
        names = [person.name for person in self.scenario.deleted_people]
        orders = [str(order) for order in self.scenario.deleted_orders]
        gone = Entry.objects.filter(action=Entry.Action.DELETED)
        # Each delivery writes one entry, in the transaction that marks it done.
        written = Entry.objects.filter(pk__gt=self.scenario.first_entry)
        return [
            Expectation("who was deleted is on record", len(names), gone.filter(values__username__in=names).count()),
            Expectation(
                "so is every deleted order, also those that went with their customer",
                len(orders),
                gone.filter(model="shop.Order", object_pk__in=orders).count(),
            ),
            Expectation(
                "one audit entry for each delivery, exactly",
                self.of(record_change).count() + self.of(record_deletion).count(),
                written.count(),
            ),
        ]

    def activity(self) -> list[Expectation]:
        results = TaskResult.objects.filter(pk__gt=self.scenario.first_result)
        return [
            Expectation("requests were counted, with their results kept", True, results.exists()),
            Expectation("and every result is a success", results.count(), results.filter(status="SUCCESS").count()),
        ]


def _pairs(rows: Any) -> dict[Any, Any]:
    return dict(rows.order_by())
