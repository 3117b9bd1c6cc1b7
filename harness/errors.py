"""The errors a user can cause: each says what is wrong, where, and what to do."""

from __future__ import annotations


class EnergyLensError(Exception):
    """Base of every error that EnergyLens raises on purpose.

    The command line prints it on one screen, without a traceback, and exits 2.

    Parameters
    ----------
    what
        What is wrong, in one sentence.
    where
        The file, key, row or value that is wrong.
    fix
        What the user can do about it.

    Attributes
    ----------
    leave_at_once
        Whether a command must end without tidying up, because that could hang.
    """

    leave_at_once = False

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  what to do: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(
    kind: type[EnergyLensError], what: str, where: str | None, fix: str | None
) -> EnergyLensError:
    """Rebuild an error that crossed a process border with its three parts intact."""
    return kind(what, where=where, fix=fix)


class SweepError(EnergyLensError):
    """A sweep file is wrong: unknown key, wrong type, nothing to do."""


class CatalogError(EnergyLensError):
    """A model or a hardware type is unknown, or its facts cannot be read."""


class PlanError(EnergyLensError):
    """A sweep cannot be planned: nothing fits, nothing is supported."""


class StoreError(EnergyLensError):
    """A run folder cannot be read or written as asked."""


class ImportDataError(EnergyLensError):
    """Data offered for import does not meet the measurement table."""


class EngineError(EnergyLensError):
    """An engine is unknown, missing or refuses a deployment or a workload.

    Attributes
    ----------
    kind
        Reason code of the rows that it ends; empty where the place it was met in decides.
    """

    kind = ""


class OutOfMemoryError(EngineError):
    """A model or a workload does not fit into the memory of the devices."""

    kind = "out_of_memory"


class NotSupportedError(EngineError):
    """The engine cannot run this model, precision, modality or input size at all."""

    kind = "not_supported"


class TimedOutError(EngineError):
    """A workload takes longer than its budget allows."""

    kind = "timed_out"


class MeterError(EnergyLensError):
    """A power sensor cannot be read: no driver, no permission, MIG, a lost device."""


class RunError(EnergyLensError):
    """A run cannot start or cannot go on."""


class FitError(EnergyLensError, KeyError):
    """A law cannot be fitted, or is asked about something it never saw."""

    def __str__(self) -> str:
        return EnergyLensError.__str__(self)
