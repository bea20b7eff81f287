"""What changed since another campaign, or another store: the same images, asked about again.

Two measurements are compared file by file (by the SHA-256 of what was sent), provider by provider. *Then* is the one that is
compared with, *now* the one that the report is about. An answer is compared with the earlier answer to the same file; agreement
is, as everywhere, with the clean answer of the same time; a photograph's class is the one that the report has, for both times. A
vendor's answers are never compared with those of an emulator, a recording or a classifier on this machine. What is not compared
is said.
"""

from __future__ import annotations

from apibench.report.against.comparison import Comparison, compare_with
from apibench.report.against.words import NAME, in_words, sheet

__all__ = ["NAME", "Comparison", "compare_with", "in_words", "sheet"]
