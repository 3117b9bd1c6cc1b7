"""Calls of NVML that are built once and made at each poll: field values, and single numbers.

A process that wakes up for a moment finds its caches cold, and pays three or four times for
each line of the bindings; so arguments and buffers are kept, and one unpack takes the answers.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from harness.meters.nvml_library import FUNCTION_NOT_FOUND

NAN = float("nan")
Answer = tuple[float, int]
Field = tuple[int, int]
"""Number of a field, and scope."""

FIELD_ENERGY, FIELD_AVERAGE, FIELD_INSTANT = 83, 185, 186

_VALUE = {0: "d", 1: "I4x", 2: "Q", 3: "Q", 4: "q", 5: "i4x", 6: "H6x"}
"""Layout of nvmlValue_t by nvmlValueType_t."""
_HEAD = "=IIqq"
"""nvmlFieldValue_t up to its type: field, scope, timestamp, latency."""
_FIELD = struct.Struct(_HEAD + "II8s")
"""The whole of it: ..., type, return code, value."""


def function(nvml: Any, name: str) -> Callable[..., int]:
    """Function of the driver's library behind the bindings.

    Raises
    ------
    NVMLError
        The library lacks it.
    """
    try:
        found: Callable[..., int] = getattr(nvml.nvmlLib, name)
    except AttributeError:
        raise nvml.NVMLError(FUNCTION_NOT_FOUND) from None
    return found


class FieldCall:
    """Some fields of one device, read in one call.

    Parameters
    ----------
    nvml, handle
        The bindings, and the device in them.
    fields
        What to read.

    Raises
    ------
    NVMLError
        The library lacks nvmlDeviceGetFieldValues.
    """

    __slots__ = ("_buffer", "_call", "_expected", "_unpack", "fields")

    def __init__(self, nvml: Any, handle: Any, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._buffer = ctypes.create_string_buffer(_FIELD.size * len(self.fields))
        for i, (field, scope) in enumerate(self.fields):
            _FIELD.pack_into(self._buffer, i * _FIELD.size, field, scope, 0, 0, 0, 0, b"")
        get = function(nvml, "nvmlDeviceGetFieldValues")
        self._call = partial(get, handle, len(self.fields), self._buffer)
        self._learn()

    def _learn(self) -> None:
        """Expect the types of the last answers, each with the return code 0."""
        kinds = [kind for *_, kind, _, _ in _FIELD.iter_unpack(self._buffer)]
        # Type and return code as one number, which is the type only where the code is 0.
        layouts = ["24xQ" + _VALUE.get(kind, "Q") for kind in kinds]
        self._unpack = struct.Struct("=" + "".join(layouts)).unpack_from
        self._expected = tuple(kinds) if all(kind in _VALUE for kind in kinds) else ()

    def read(self) -> tuple[tuple[float, ...], int]:
        """Make the call.

        Returns
        -------
        tuple of float
            Value of each field in its own unit, NaN where refused or of an unknown type; empty
            if the call as a whole was refused.
        int
            0, or the first return code that is not.
        """
        code = self._call()
        if code:
            return (), code
        got = self._unpack(self._buffer)
        if len(got) == 6:
            # The usual three are spelt out: slices take twice the time.
            first, a, second, b, third, c = got
            if (first, second, third) == self._expected:
                return (a, b, c), 0
        elif got[::2] == self._expected:
            return got[1::2], 0
        answers = self.answers()
        self._learn()
        return tuple(number for number, _ in answers), next((c for _, c in answers if c), 0)

    def answers(self) -> list[Answer]:
        """Value and return code of each field as the last call left them."""
        out = []
        for *_, kind, code, raw in _FIELD.iter_unpack(self._buffer):
            layout = _VALUE.get(kind)
            if code != 0 or layout is None:
                out.append((NAN, code))
            else:
                out.append((float(struct.unpack("=" + layout, raw)[0]), code))
        return out


class NumberCall:
    """A call that gives one unsigned number of a device.

    Parameters
    ----------
    nvml, handle
        The bindings, and the device in them.
    name
        Function of the library.
    kind
        Type of the number.

    Raises
    ------
    NVMLError
        The library lacks the function.
    """

    __slots__ = ("_call", "_number")

    def __init__(
        self,
        nvml: Any,
        handle: Any,
        name: str,
        kind: type[ctypes.c_uint] | type[ctypes.c_ulonglong],
    ) -> None:
        self._number = kind()
        self._call = partial(function(nvml, name), handle, ctypes.byref(self._number))

    def read(self) -> tuple[int, int]:
        """Make the call; return the number, which means nothing with an error, and the code."""
        code = self._call()
        return self._number.value, code
