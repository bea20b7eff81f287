"""Errors that reach a person: one to three lines that name the culprit, and the exit code of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    NOTHING_DONE = 2  # bad arguments, no usable image, no credentials
    SOME_FAILED = 3  # some images could not be done; they are listed, the rest is complete
    CAP_REACHED = 4  # a cap on calls was reached


class ApibenchError(Exception):
    """Something a user can put right. ``str(error)`` is one to three lines; the command exits with ``exit_code``."""

    exit_code: ExitCode = ExitCode.NOTHING_DONE
