"""The same receiver on a signalq that writes its events in another way."""

from signalq import codec
from tests.faults.versions.old import greet as greet

codec.VERSION += 1
