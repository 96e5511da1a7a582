"""The standard streams of the command line: closed ones, full disks, readers that have gone, narrow encodings."""

from __future__ import annotations

import errno
import io
import os
import sys


def prepare() -> None:
    """Opens closed standard streams, so that no other file gets their numbers; writing to a closed stdout is an error.

    Characters that the streams' encoding does not have are escaped.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_of_stdout(error: Exception) -> bool:
    """Whether an error is that of a write to stdout: those of files have a name, and stores have errors of their own."""
    kinds = (errno.ENOSPC, errno.EPIPE, errno.EBADF)
    return isinstance(error, OSError) and error.errno in kinds and error.filename is None


def drop_stdout() -> None:
    """Drops what is still to be written to stdout."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
