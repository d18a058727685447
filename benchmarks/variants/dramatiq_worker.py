"""What `dramatiq` imports in its workers."""

import django

django.setup()
