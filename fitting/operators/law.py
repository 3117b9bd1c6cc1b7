"""Laws of operators: the datasheet's roofline times a smooth correction by shape and kernel.

    log E = log( roofline of the kernel, `rates` ) + w_o . phi(x) + w_k . psi(x) + local(x)

phi and psi are straight lines, squares, products and hinges in the logarithms x of the shape; w_o
belongs to the operator, w_k to the kernel that serves it, drawn to none. On another GPU type the
rates of the kernels are found anew, near those of the first; a further set of weights says what
else differs, and `local` adds what a few calls there
show of their neighbours in shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.facts import Facts, HardwareFacts
from fitting.operators.rates import energy, rates_of
from fitting.operators.work import demand, kernels
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NAME = "energylens_operators"
VERSION = 1
CLIP = 4.0
"""Standard deviations beyond which a coordinate is held: no far extrapolation."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Functions of the coordinates.

    Attributes
    ----------
    centre, spread
        Mean and standard deviation of each coordinate, shape (coordinates,).
    knots
        Knots of the hinges in the first two coordinates, in standard deviations.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    knots: tuple[tuple[float, ...], ...]

    def scaled(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coordinates in standard deviations, held at `CLIP`."""
        result: NDArray[np.float64] = np.clip((x - self.centre) / self.spread, -CLIP, CLIP)
        return result

    def wide(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return phi: 1, lines, squares, products, hinges, shape (rows, functions)."""
        z = self.scaled(x)
        n = z.shape[1]
        products = [z[:, i] * z[:, j] for i in range(n) for j in range(i + 1)]
        return np.column_stack([np.ones(len(z)), z, *products, *self._hinges(z)])

    def narrow(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return psi: 1, lines, hinges of the first two, shape (rows, functions)."""
        z = self.scaled(x)
        return np.column_stack([np.ones(len(z)), z, *self._hinges(z)])

    def _hinges(self, z: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        return [np.maximum(z[:, j] - k, 0.0) for j, ks in enumerate(self.knots) for k in ks]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of phi, and of psi by kernel; a kernel that was not seen has none."""

    operator: NDArray[np.float64]
    kernel: Mapping[str, NDArray[np.float64]]

    def at(
        self, basis: Basis, x: NDArray[np.float64], names: NDArray[np.str_], *, wide: bool
    ) -> NDArray[np.float64]:
        """Return their sum at each call, shape (rows,)."""
        result: NDArray[np.float64] = (basis.wide(x) if wide else basis.narrow(x)) @ self.operator
        narrow = basis.narrow(x)
        for name in set(names.tolist()) & set(self.kernel):
            here = names == name
            result[here] += narrow[here] @ self.kernel[name]
        return result


@dataclass(frozen=True, slots=True)
class Local:
    """What measured calls show of their neighbours: a sum of bumps about them.

    Attributes
    ----------
    centres, names, heights
        Scaled coordinates and kernel of each call, and how much its bump adds.
    reach
        Distance over which a bump decays, standard deviations.
    kinship
        What a bump counts for another kernel, 0 to 1.
    """

    centres: NDArray[np.float64]
    names: NDArray[np.str_]
    heights: NDArray[np.float64]
    reach: float
    kinship: float

    def at(self, z: NDArray[np.float64], names: NDArray[np.str_]) -> NDArray[np.float64]:
        """Return the sum of the bumps at each call, shape (rows,)."""
        found = bumps(z, names, self.centres, self.names, self.reach, self.kinship)
        result: NDArray[np.float64] = found @ self.heights
        return result


def bumps(
    a: NDArray[np.float64],
    a_names: NDArray[np.str_],
    b: NDArray[np.float64],
    b_names: NDArray[np.str_],
    reach: float,
    kinship: float,
) -> NDArray[np.float64]:
    """Return the bump of each of `b` at each of `a` (Matern 3/2), shape (rows of a, of b)."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * a @ b.T
    far = np.sqrt(3.0 * np.maximum(square, 0.0)) / reach
    same = np.where(a_names[:, None] == b_names[None, :], 1.0, kinship)
    result: NDArray[np.float64] = (1.0 + far) * np.exp(-far) * same
    return result


@dataclass(frozen=True, slots=True)
class OperatorLaw:
    """The law of one operator.

    Attributes
    ----------
    basis
        Functions of the coordinates.
    rates
        Kernel -> what it makes of the datasheet (`fitting.operators.rates`).
    weights
        What holds on the GPU type that it was fitted on.
    carried_rates
        GPU type -> rates there.
    carried
        GPU type -> what differs there.
    local
        GPU type -> what measured calls show of their neighbours there.
    n_rows
        Calls fitted.
    """

    basis: Basis
    rates: Mapping[str, NDArray[np.float64]]
    weights: Weights
    carried_rates: Mapping[str, Mapping[str, NDArray[np.float64]]]
    carried: Mapping[str, Weights]
    local: Mapping[str, Local]
    n_rows: int

    def log_energy(
        self,
        promise: NDArray[np.float64],
        x: NDArray[np.float64],
        names: NDArray[np.str_],
        gpus: NDArray[np.str_],
    ) -> NDArray[np.float64]:
        """Return the log energy of each call from what `demand` returns, shape (rows,)."""
        result = self.weights.at(self.basis, x, names, wide=True)
        for gpu in set(gpus.tolist()):
            here = gpus == gpu
            rates = {**self.rates, **self.carried_rates.get(gpu, {})}
            result[here] += energy(promise[here], rates_of(names[here], rates))
        for gpu in set(gpus.tolist()):
            here = gpus == gpu
            if gpu in self.carried:
                moved = self.carried[gpu].at(self.basis, x[here], names[here], wide=False)
                result[here] += moved
            if gpu in self.local:
                result[here] += self.local[gpu].at(self.basis.scaled(x[here]), names[here])
        return result


@dataclass(frozen=True, slots=True)
class OperatorLaws:
    """Laws of several operators.

    Attributes
    ----------
    laws
        Operator -> its law.
    hardware
        GPU type -> datasheet.
    """

    laws: Mapping[str, OperatorLaw]
    hardware: Mapping[str, HardwareFacts]

    @property
    def name(self) -> str:
        """Name of the laws."""
        return NAME

    def predict(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Return the energy of each call, J, shape (rows,). Measured latency is no input.

        Raises
        ------
        FitError
            If an operator was not fitted, or a GPU type has no datasheet.
        """
        result = np.full(len(rows), np.nan)
        for operator, positions in rows.groupby("op").indices.items():
            name = str(operator)
            if name not in self.laws:
                raise FitError(
                    f"The operator {name!r} was not fitted.",
                    where="column op",
                    fix=f"Fitted: {', '.join(sorted(self.laws))}.",
                )
            part = rows.iloc[positions]
            promise, x = demand(name, part, self.hardware)
            gpus = np.array([str(h) for h in part["hardware"]], dtype=str)
            result[positions] = np.exp(self.laws[name].log_energy(promise, x, kernels(part), gpus))
        return result

    def adapted(
        self, rows: pd.DataFrame, hardware: Mapping[str, HardwareFacts] | None = None
    ) -> OperatorLaws:
        """Return the laws carried to the GPU type of a few more rows, which have `energy_j`."""
        from fitting.operators.solve import adapt

        return adapt(self, rows, {**self.hardware, **(hardware or {})})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        facts = Facts(self.hardware).to_dict()
        return {
            "name": NAME,
            "version": VERSION,
            "hardware": facts["hardware"],
            "laws": {name: _law_to(law) for name, law in self.laws.items()},
        }


def from_dict(data: Mapping[str, Any]) -> OperatorLaws:
    """Rebuild from `OperatorLaws.to_dict`."""
    facts = Facts.from_dict({"hardware": data["hardware"], "models": {}})
    return OperatorLaws({k: _law_from(v) for k, v in data["laws"].items()}, facts.hardware)


def _weights_to(weights: Weights) -> dict[str, Any]:
    return {
        "operator": weights.operator.tolist(),
        "kernel": {k: v.tolist() for k, v in weights.kernel.items()},
    }


def _weights_from(data: Mapping[str, Any]) -> Weights:
    return Weights(np.array(data["operator"]), {k: np.array(v) for k, v in data["kernel"].items()})


def _law_to(law: OperatorLaw) -> dict[str, Any]:
    return {
        "centre": law.basis.centre.tolist(),
        "spread": law.basis.spread.tolist(),
        "knots": [list(k) for k in law.basis.knots],
        "rates": {k: v.tolist() for k, v in law.rates.items()},
        "weights": _weights_to(law.weights),
        "carried_rates": {
            gpu: {k: v.tolist() for k, v in of.items()} for gpu, of in law.carried_rates.items()
        },
        "carried": {k: _weights_to(v) for k, v in law.carried.items()},
        "local": {
            k: {
                "centres": v.centres.tolist(),
                "names": v.names.tolist(),
                "heights": v.heights.tolist(),
                "reach": v.reach,
                "kinship": v.kinship,
            }
            for k, v in law.local.items()
        },
        "n_rows": law.n_rows,
    }


def _law_from(data: Mapping[str, Any]) -> OperatorLaw:
    basis = Basis(
        np.array(data["centre"]), np.array(data["spread"]), tuple(tuple(k) for k in data["knots"])
    )
    local = {
        k: Local(
            np.array(v["centres"]),
            np.array(v["names"], dtype=str),
            np.array(v["heights"]),
            float(v["reach"]),
            float(v["kinship"]),
        )
        for k, v in data["local"].items()
    }
    carried = {k: _weights_from(v) for k, v in data["carried"].items()}
    return OperatorLaw(
        basis=basis,
        rates={k: np.array(v) for k, v in data["rates"].items()},
        weights=_weights_from(data["weights"]),
        carried_rates={
            gpu: {k: np.array(v) for k, v in of.items()}
            for gpu, of in data["carried_rates"].items()
        },
        carried=carried,
        local=local,
        n_rows=int(data["n_rows"]),
    )
