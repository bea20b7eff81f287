"""An emulator of vendors' wire protocols on loopback, answered by a real classifier: the SDKs, unmodified, are its clients.

One HTTP server (:mod:`~apibench.emulator.server`) hands each request to the wire that claims it
(:mod:`~apibench.emulator.rekognition`); decoding, classifying and caching (:mod:`~apibench.emulator.answerer`), faults on demand
(:mod:`~apibench.emulator.faults`) and the bill (:mod:`~apibench.emulator.bill`) are the same for all of them.
"""

from __future__ import annotations

from apibench.emulator.answerer import Answerer
from apibench.emulator.faults import Faults
from apibench.emulator.server import Emulator

__all__ = ["Answerer", "Emulator", "Faults"]
