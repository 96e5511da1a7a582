"""The two ways a command ends badly; each message is one line: where, what was found, what to do."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used (a file, a setting, a bucket, credentials): exit code 2."""


class StepError(RuntimeError):
    """A step that had good input failed (a full disk, workers that keep dying): exit code 1."""


class NoSpace(StepError):
    """A full disk or bucket: trying again at once is of no use."""
