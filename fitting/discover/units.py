"""Units of formulas: every term should come out in joules, every exponent be a pure number."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from fitting.discover.expression import read


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of base units, such as J/token.

    Attributes
    ----------
    powers
        (base unit, power), sorted, none of power 0.
    """

    powers: tuple[tuple[str, float], ...] = ()

    def times(self, other: Unit, power: float = 1.0) -> Unit:
        """Return this unit times a power of another."""
        merged = dict(self.powers)
        for base, value in other.powers:
            merged[base] = merged.get(base, 0.0) + power * value
        return Unit(tuple(sorted((b, v) for b, v in merged.items() if abs(v) > 1e-9)))

    def __str__(self) -> str:
        above = [_power(b, v) for b, v in self.powers if v > 0]
        below = [_power(b, -v) for b, v in self.powers if v < 0]
        return "/".join(["*".join(above) or "1", *below])


PURE = Unit()
"""No unit."""


def _power(base: str, value: float) -> str:
    return base if value == 1.0 else f"{base}**{value:g}"


def unit(text: str) -> Unit:
    """Read a unit such as `J`, `1`, `J/token` or `token**2/request`."""
    result = PURE
    for sign, part in enumerate(text.split("/")):
        for factor in part.replace("**", "^").split("*"):
            base, _, power = factor.strip().partition("^")
            if base and base != "1":
                result = result.times(
                    Unit(((base, 1.0),)), (-1.0 if sign else 1.0) * float(power or 1)
                )
    return result


def violations(text: str, units: Mapping[str, Unit | None], target: Unit) -> tuple[str, ...]:
    """Return what is wrong with the units of a formula; nothing if all is right.

    Parameters
    ----------
    text
        The formula.
    units
        Unit of each of its names. None for a fitted constant that takes whatever unit makes the
        formula right; every sum, exponent and logarithm that holds no such constant is checked.
    target
        Unit that the formula must have.

    Returns
    -------
    tuple of str
        One sentence for each fault.
    """
    checker = _Checker(units)
    found = checker.unit_of(read(text).tree.body)
    faults = list(dict.fromkeys(checker.faults))
    if found is not None and found != target:
        faults.append(f"the law is in {found}, not in {target}")
    return tuple(faults)


class _Checker:
    """Walks a formula; None as a unit stands for any unit."""

    def __init__(self, units: Mapping[str, Unit | None]) -> None:
        self.units = units
        self.faults: list[str] = []

    def unit_of(self, node: ast.expr) -> Unit | None:
        """Return the unit of a part of the formula, and note its faults."""
        if isinstance(node, ast.Constant):
            return PURE
        if isinstance(node, ast.Name):
            if node.id not in self.units:
                self.faults.append(f"{node.id} has no unit")
                return None
            return self.units[node.id]
        if isinstance(node, ast.UnaryOp):
            return self.unit_of(node.operand)
        if isinstance(node, ast.BinOp):
            return self._pair(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._call(node.func.id, node.args)
        return None

    def _pair(self, node: ast.BinOp) -> Unit | None:
        left = self.unit_of(node.left)
        if isinstance(node.op, ast.Pow):
            return self._raised(left, node.right, node)
        right = self.unit_of(node.right)
        if isinstance(node.op, ast.Mult | ast.Div):
            if left is None or right is None:
                return None
            return left.times(right, 1.0 if isinstance(node.op, ast.Mult) else -1.0)
        return self._same([left, right], node)

    def _raised(self, base: Unit | None, exponent: ast.expr, node: ast.expr) -> Unit | None:
        number = _number(exponent)
        if number is not None:
            return None if base is None else PURE.times(base, number)
        power = self.unit_of(exponent)
        if power not in (None, PURE):
            self.faults.append(f"an exponent in {power}: {ast.unparse(node)}")
        if base not in (None, PURE):
            self.faults.append(f"a fitted power of {base}: {ast.unparse(node)}")
        return PURE if base is not None else None

    def _same(self, parts: list[Unit | None], node: ast.expr) -> Unit | None:
        known = [part for part in parts if part is not None]
        if not known:
            return None
        if any(part != known[0] for part in known):
            self.faults.append(
                f"{' added to '.join(str(part) for part in known)}: {ast.unparse(node)}"
            )
        return known[0]

    def _call(self, name: str, arguments: list[ast.expr]) -> Unit | None:
        units = [self.unit_of(argument) for argument in arguments]
        if name == "sqrt":
            return None if units[0] is None else PURE.times(units[0], 0.5)
        if name in ("Min", "Max"):
            return self._same(units, arguments[0])
        if name == "Abs":
            return units[0]
        for found, argument in zip(units, arguments, strict=True):
            if found not in (None, PURE):
                self.faults.append(f"{name} of {found}: {ast.unparse(argument)}")
        return PURE


def _number(node: ast.expr) -> float | None:
    """Return the value of a number such as 2, -0.5 or 1/3; None if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        above, below = _number(node.left), _number(node.right)
        return above / below if above is not None and below else None
    return None
