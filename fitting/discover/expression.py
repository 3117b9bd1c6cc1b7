"""Formulas as text that is read once: evaluated on arrays, counted, and checked for units.

The text is Python arithmetic, which SymPy reads as it is. Only arithmetic and a few functions are
let through, so that a formula which an engine or a file gives can be evaluated without harm.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.store import FitError

Array = NDArray[np.float64]

FUNCTIONS: dict[str, Any] = {
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "Abs": np.abs,
    "Min": np.minimum,
    "Max": np.maximum,
}
"""Functions that a formula may call, by the names that SymPy gives them."""

_NODES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.Pow,
    ast.USub,
    ast.UAdd,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
)


@dataclass(frozen=True, slots=True)
class Expression:
    """One formula.

    Attributes
    ----------
    text
        The formula, readable by SymPy.
    tree
        Its syntax tree.
    names
        Variables and constants that it uses.
    complexity
        Number of its operators, functions, variables and numbers.
    """

    text: str
    tree: ast.Expression
    names: frozenset[str]
    complexity: int
    _code: CodeType

    def __call__(self, values: Mapping[str, Any]) -> Array:
        """Return its value for the values of its names, arrays or numbers.

        A pole gives an infinity or NaN, never a warning.
        """
        with np.errstate(all="ignore"):
            found = eval(self._code, {"__builtins__": {}, **FUNCTIONS, **values})
        result: Array = np.asarray(found, dtype=np.float64)
        return result


@lru_cache(maxsize=4096)
def read(text: str) -> Expression:
    """Read a formula.

    Raises
    ------
    FitError
        If it is no arithmetic, or calls an unknown function.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(text, str(error)) from error
    names, functions, size = set(), set(), 0
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise _unreadable(text, f"{type(node).__name__} is no arithmetic")
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.keywords:
                raise _unreadable(text, "a call of what is no function name")
            if node.func.id not in FUNCTIONS:
                raise _unreadable(text, f"unknown function {node.func.id}")
            functions.add(node.func.id)
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
            raise _unreadable(text, f"{node.value!r} is no number")
        if isinstance(node, ast.Name):
            names.add(node.id)
        size += isinstance(node, ast.BinOp | ast.UnaryOp | ast.Name | ast.Constant)
    code = compile(tree, "<formula>", "eval")
    return Expression(text, tree, frozenset(names - functions), size, code)


def _unreadable(text: str, why: str) -> FitError:
    return FitError(
        f"The formula cannot be read: {why}.",
        where=text[:200],
        fix=f"Use + - * / **, numbers, names, and {', '.join(FUNCTIONS)}.",
    )
