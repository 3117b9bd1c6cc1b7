"""Laws of any shape over work terms: constants named, fitted to each group in double precision."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.discover.expression import read
from fitting.discover.problem import Problem
from fitting.discover.structure import Constant

Array = NDArray[np.float64]

WORST = 10.0
"""Residual of a row where a law has a pole or is not positive."""

SOFT = 0.1
"""Relative residual beyond which soft_l1 stops to count it with its square."""

MOST_CONSTANTS = 10
"""A law with more fitted numbers than this is dropped."""

_NEAR_ONE = 0.1
"""A power of a whole law within this of 1 is taken for 1, and fitted again without it."""


@dataclass(frozen=True, slots=True)
class FreeLaw:
    """A formula over work terms with constants c1, c2, ...; see `Structure`.

    Attributes
    ----------
    text
        The formula.
    start
        What the engine found for its constants; fits begin there.
    inputs
        Which variables it may use: the work terms of the problem, or its ratios.
    """

    text: str
    start: tuple[float, ...]
    inputs: str = "inputs"

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Constants; their units are left open."""
        return tuple(Constant(f"c{i + 1}", None, "fitted constant") for i in range(len(self.start)))

    @property
    def terms(self) -> tuple[str, ...]:
        """Variables that it uses."""
        return tuple(sorted(n for n in read(self.text).names if not _is_constant(n)))

    def variables(self, problem: Problem) -> dict[str, Array]:
        """Return the values of its variables."""
        known = problem.variables(self.inputs)
        return problem.inputs_of({name: known[name] for name in self.terms})

    def fit(self, problem: Problem) -> Array:
        """Return the constants of each group by robust least squares on log energies."""
        variables, target = self.variables(problem), np.log(problem.energy)
        return np.array(
            [
                self._fit_group(
                    {name: value[rows] for name, value in variables.items()},
                    target[rows],
                    problem.weight[rows],
                )
                for rows in problem.slices()
            ]
        ).reshape(len(problem.names), len(self.start))

    def _fit_group(self, variables: Mapping[str, Array], target: Array, weight: Array) -> Array:
        from scipy.optimize import least_squares

        start = np.array(self.start)
        if not len(target) or not len(start):
            return start
        formula = read(self.text)

        def residual(values: Array) -> Array:
            named = {f"c{i + 1}": v for i, v in enumerate(values)}
            with np.errstate(all="ignore"):
                found = np.log(formula({**variables, **named})) - target
            found = np.broadcast_to(found, target.shape)
            result: Array = weight * np.where(np.isfinite(found), found, WORST)
            return result

        shift = residual(start) / weight
        scaled = start * np.exp(-np.median(np.clip(shift, -50.0, 50.0)))
        starts = [start, scaled]
        first = min(starts, key=lambda values: float(np.abs(residual(values)).sum()))
        size = np.where(first == 0.0, 1.0, np.abs(first))
        found = least_squares(
            lambda u: residual(first + u * size),
            np.zeros_like(first),
            loss="soft_l1",
            f_scale=SOFT,
            max_nfev=30,
        )
        result: Array = first + found.x * size
        return result

    def predict(self, problem: Problem, values: Array) -> Array:
        """Return energies, J, shape (rows,)."""
        named = {f"c{i + 1}": values[problem.group, i] for i in range(len(self.start))}
        found = read(self.text)({**self.variables(problem), **named})
        return np.broadcast_to(found, problem.energy.shape)

    def active(self, problem: Problem, values: Array) -> NDArray[np.intp]:
        """Return the number of constants for every group, shape (groups,)."""
        return np.full(len(problem.names), len(self.start), dtype=np.intp)


def sound(law: FreeLaw, problem: Problem, values: Array) -> bool:
    """Say whether a law is finite and positive on all rows: no pole."""
    predicted = law.predict(problem, values)
    return bool(np.isfinite(predicted).all() and (predicted > 0.0).all())


def _is_constant(name: str) -> bool:
    return name[:1] == "c" and name[1:].isdigit()


def from_log(text: str, inputs: str = "inputs") -> list[FreeLaw]:
    """Turn a formula for log E, with numbers in it, into laws for E with named constants.

    a + b log(S) is S itself where b is near 1, because the constants inside S take up a; else
    S^b. Anything else is put into an exponential.

    Raises
    ------
    FitError
        If the formula cannot be read.
    """
    tree = _folded(read(text).tree.body)
    laws = []
    inner = _scaled_log(tree)
    if inner is not None:
        offset, power, argument = inner
        scale = float(np.exp(np.clip(offset, -50.0, 50.0)))
        if abs(power - 1.0) < _NEAR_ONE:
            laws.append(_named(_times(scale, argument), inputs))
        else:
            inside = _times(float(np.exp(np.clip(offset / power, -50.0, 50.0))), argument)
            laws.append(_named(ast.BinOp(inside, ast.Pow(), ast.Constant(power)), inputs))
    else:
        laws.append(_named(ast.Call(ast.Name("exp", ast.Load()), [tree], []), inputs))
    return [law for law in laws if len(law.start) <= MOST_CONSTANTS and law.terms]


def from_energy(text: str, inputs: str = "inputs") -> list[FreeLaw]:
    """Turn a formula for E, with numbers in it, into a law with named constants."""
    law = _named(_folded(read(text).tree.body), inputs)
    return [law] if len(law.start) <= MOST_CONSTANTS and law.terms else []


def _value(node: ast.expr) -> float | None:
    """Return the number that a node is, or None."""
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        return None if inner is None else -inner
    return None


_COMBINE: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b if b else float("nan"),
}


def _folded(node: ast.expr) -> ast.expr:
    """Return a formula with its numbers drawn together: 2*(3*x) is 6*x."""
    if isinstance(node, ast.Call):
        return ast.Call(node.func, [_folded(a) for a in node.args], [])
    number = _value(node)
    if number is not None:
        return ast.Constant(number)
    if isinstance(node, ast.UnaryOp):
        return _times(-1.0, _folded(node.operand))
    if not isinstance(node, ast.BinOp):
        return node
    left, right = _folded(node.left), _folded(node.right)
    a, b = _value(left), _value(right)
    combine = _COMBINE.get(type(node.op))
    if a is not None and b is not None and combine is not None:
        return ast.Constant(combine(a, b))
    if isinstance(node.op, ast.Mult):
        if a is not None:
            return _times(a, right)
        if b is not None:
            return _times(b, left)
    if isinstance(node.op, ast.Div) and b:
        return _times(1.0 / b, left)
    return ast.BinOp(left, node.op, right)


def _times(number: float, node: ast.expr) -> ast.expr:
    """Return a number times a formula, taken into the terms of a sum and into other numbers."""
    value = _value(node)
    if value is not None:
        return ast.Constant(number * value)
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Add | ast.Sub):
            return ast.BinOp(_times(number, node.left), node.op, _times(number, node.right))
        inside = _value(node.left) if isinstance(node.op, ast.Mult) else None
        if inside is not None:
            return ast.BinOp(ast.Constant(number * inside), ast.Mult(), node.right)
        if isinstance(node.op, ast.Mult) and isinstance(node.left, ast.Call | ast.BinOp):
            return ast.BinOp(_times(number, node.left), ast.Mult(), node.right)
    called = node.func if isinstance(node, ast.Call) else None
    if isinstance(called, ast.Name) and called.id == "sqrt" and number > 0.0:
        return ast.Call(called, [_times(number**2, node.args[0])], [])  # type: ignore[attr-defined]
    return ast.BinOp(ast.Constant(number), ast.Mult(), node)


def _scaled_log(node: ast.expr) -> tuple[float, float, ast.expr] | None:
    """Return (a, b, S) if a formula is a + b log(S), else None."""
    offset = 0.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for number, rest in ((node.left, node.right), (node.right, node.left)):
            value = _value(number)
            if value is not None:
                offset, node = value, rest
                break
    power = 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        value = _value(node.left)
        if value is not None:
            power, node = value, node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log":
        return offset, power, node.args[0]
    return None


class _Namer(ast.NodeTransformer):
    """Replaces numbers by c1, c2, ...; whole exponents such as 2 stay."""

    def __init__(self) -> None:
        self.start: list[float] = []

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        self.start.append(float(node.value))  # type: ignore[arg-type]
        return ast.Name(f"c{len(self.start)}", ast.Load())

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.op, ast.Pow):
            value = _value(node.right)
            if value is not None and value == round(value):
                return ast.BinOp(self.visit(node.left), node.op, node.right)
        return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))


def _named(node: ast.expr, inputs: str) -> FreeLaw:
    namer = _Namer()
    named = ast.fix_missing_locations(ast.Expression(namer.visit(node)))
    return FreeLaw(ast.unparse(named.body), tuple(namer.start), inputs)


def distinct(laws: Sequence[FreeLaw]) -> list[FreeLaw]:
    """Return laws without those of equal text, the first of each kept."""
    found: dict[str, FreeLaw] = {}
    for law in laws:
        found.setdefault(law.text, law)
    return list(found.values())
