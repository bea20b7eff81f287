"""An emulator of vendors' wire protocols on loopback, answered by a real classifier: the SDKs, unmodified, are its clients.

Two servers, :mod:`~apibench.emulator.httpd` and, for gRPC, :mod:`~apibench.emulator.rpcd`, hand each request to the wire that
claims it, of those that :mod:`~apibench.emulator.vendors` lists. Decoding, classifying and caching
(:mod:`~apibench.emulator.answerer`), faults on demand (:mod:`~apibench.emulator.faults`) and the bill
(:mod:`~apibench.emulator.bill`) are the same for all of them.
"""

from __future__ import annotations

from apibench.emulator.answerer import Answerer
from apibench.emulator.faults import Faults
from apibench.emulator.server import Emulator

__all__ = ["Answerer", "Emulator", "Faults"]
