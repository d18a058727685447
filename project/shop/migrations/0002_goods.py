"""Something to sell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import migrations

if TYPE_CHECKING:
    from django.apps.registry import Apps
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

PRODUCTS = [("Teapot", "24.00"), ("Mug", "9.50"), ("Kettle", "39.90"), ("Biscuits", "4.20")]
TAGS = ["gift", "urgent", "fragile", "wholesale"]


def fill(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    product, tag = apps.get_model("shop", "Product"), apps.get_model("shop", "Tag")
    product.objects.bulk_create(product(name=name, price=price, stock=5_000) for name, price in PRODUCTS)
    tag.objects.bulk_create(tag(name=name) for name in TAGS)


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
