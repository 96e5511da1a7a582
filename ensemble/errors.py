"""Errors of ensemble selection; each message is one line: where, what was found, what to do."""

from __future__ import annotations


class EnsembleError(ValueError):
    """A prediction table, a name or a limit that cannot be used."""


class TableError(EnsembleError):
    """A prediction table that cannot be used."""


class SelectionError(EnsembleError):
    """A selection that is impossible: an unknown name, too many members, or limits that no subset is within."""
