"""The errors of a search; each message is one line: where, what was found, what was expected, what to do."""

from __future__ import annotations


class ProblemError(ValueError):
    """A table, a predictor, a limit or a setting that cannot be used."""


class PredictorError(ProblemError):
    """A predictor file that cannot be used."""


class InfeasibleError(ProblemError):
    """No arch within the limits was found."""
