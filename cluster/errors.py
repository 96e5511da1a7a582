"""The two kinds of failure of a command; each message is one line: where, what was found, what to do."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input cannot be used (a file, a setting, a bucket, credentials): exit code 2."""


class StepError(RuntimeError):
    """A step with valid input failed (a full disk, workers that keep dying): exit code 1."""


class Final(StepError):
    """A failure that a retry would repeat."""


class NoSpace(Final):
    """A full disk or bucket."""


class Diverged(Final):
    """A training whose loss or weights are not finite, or weights with which outputs are not."""
