"""Errors of torch and transformers, told apart by what they mean for a launch."""

from __future__ import annotations

import gc

from harness.errors import EnergyLensError, EngineError, NotSupportedError, OutOfMemoryError

_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "storage size calculation overflowed",
    "hiperroroutofmemory",
)
_BROKEN_WORDS = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ecc",
    "cuda error",
    "hip error",
)


class WorkloadFailedError(EngineError):
    """A workload crashed; the session goes on with the next one."""

    kind = "workload_failed"


class EngineBrokenError(EngineError):
    """The device context is lost: nothing can run in this process any more."""

    kind = "engine_broken"


def one_line(error: BaseException) -> str:
    """Type and first sentence of an error, without the advice that follows it."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = ""
    for line in lines:
        text = f"{text} {line}".strip()
        if not text.endswith(":"):
            break
    return f"{type(error).__name__}: {text}"[:400] if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or on the host."""
    if isinstance(error, MemoryError):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS)


def is_broken_context(error: BaseException) -> bool:
    """Whether the error leaves the device context unusable."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _BROKEN_WORDS)


def translate(error: BaseException, where: str) -> EnergyLensError:
    """Return the error of this project that says what `error` means.

    Parameters
    ----------
    error
        What torch or transformers raised.
    where
        Model, deployment and workload, for the reader.
    """
    if isinstance(error, EnergyLensError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"this does not fit in memory: {one_line(error)}",
            where=where,
            fix="use a smaller batch or context, a smaller model, or more memory",
        )
    if is_broken_context(error):
        return EngineBrokenError(
            f"the device context is lost: {one_line(error)}",
            where=where,
            fix="run the remaining workloads in a new launch",
        )
    if isinstance(error, NotImplementedError):
        return NotSupportedError(
            f"transformers cannot run this: {one_line(error)}",
            where=where,
            fix="leave it out of the sweep",
        )
    return WorkloadFailedError(
        f"the workload crashed: {one_line(error)}", where=where, fix="leave it out of the sweep"
    )


def release_memory() -> None:
    """Give back what a failed run left behind, so that the next one has it."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
