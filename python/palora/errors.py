"""The errors of the pipeline: one sentence for the person at the terminal, no traceback needed."""

from __future__ import annotations


class PaloraError(Exception):
    """Something a user can put right: a missing file, an unknown name, a run that cannot go on.

    The command line prints the message alone and exits with status 1; in Python it is an ordinary exception.
    """


class UnwritableError(PaloraError):
    """A file or folder could not be written: the disk is full, permissions are missing, …"""
