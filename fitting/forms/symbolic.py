"""The EnergyLens laws as sympy expressions: to read, to differentiate, to check units.

Nothing is fitted or predicted with these; `columns` and `slopes` do that. A test holds both to
the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.forms import energylens12 as law
from fitting.work import TWO_SHOT_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitting.forms.energylens12 import EnergyLens
    from fitting.work import Work

LETTERS: dict[str, str] = {
    "prefill_compute": "a_1",
    "prefill_sharding": "a_2",
    "prefill_launch": "a_3",
    "prefill_encoder": "a_4",
    "decode_weights": "d_1",
    "decode_tokens": "d_2",
    "decode_sync": "d_3",
    "decode_launch": "d_4",
    "decode_launch_extra": "d_5",
    "shared_bridge": "x_1",
    "waiting_power_ratio": "rho",
    "weight_shard_exponent": "e",
    "reduced_precision_cost": "f",
}
"""Letter of each parameter, as in docs/law.md."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a symbol stands for.

    Attributes
    ----------
    unit
        Powers of the units that it is counted in; nothing for a pure number.
    meaning
        In words.
    """

    unit: dict[str, int]
    meaning: str


QUANTITIES: dict[str, Quantity] = {
    "B": Quantity({}, "requests of the batch"),
    "n": Quantity({"token": 1}, "input tokens of a request, visual ones included"),
    "m": Quantity({}, "output tokens of a request; m - 1 decode steps"),
    "v": Quantity({"token": 1}, "visual tokens of a request"),
    "t": Quantity({}, "tensor parallel degree"),
    "p": Quantity({}, "pipeline parallel degree"),
    "d": Quantity({}, "data parallel degree"),
    "w": Quantity({}, "bytes of a weight over 2"),
    "c": Quantity({}, "cost of a multiplication over that in bf16"),
    "q": Quantity({}, "1 where weights have less than 16 bits, else 0"),
    "g": Quantity({}, "share of the experts that one token uses; 1 without experts"),
    "h": Quantity({"channel": 1}, "width of the model"),
    "kappa": Quantity({"token": -1}, "bytes of a token's KV cache over those of all weights"),
    "sigma": Quantity({}, "bytes of a sequence's recurrent state over those of all weights"),
}
"""Symbols of a row of the table."""

CONSTANTS: dict[str, tuple[float, Quantity]] = {
    "u": (1.0, Quantity({"token": 1}, "one token, as what a decode step adds to a request")),
    "T_0": (law.ROOFLINE_TOKENS, Quantity({"token": 1}, "tokens that hide reading the weights")),
    "A": (law.ATTENTION, Quantity({"token": -1, "channel": 1}, "attention over other work")),
    "g_0": (law.ALWAYS_USED, Quantity({}, "share of the weights that every token uses")),
    "y": (law.SEQUENCE_POWER, Quantity({}, "growth of the work per sequence with their number")),
    "N": (law.STATE_PASSES, Quantity({}, "passes over a recurrent state in a step")),
    "l": (law.LATENCY_BYTES, Quantity({"byte": 1}, "bytes as dear as the latency of a message")),
    "z": (law.SHARD_POWER, Quantity({}, "growth of the cost of sharding a prefill")),
    "M": (TWO_SHOT_BYTES, Quantity({"byte": 1}, "message that takes two rounds")),
    "j": (2.0, Quantity({"byte": 1, "channel": -1}, "bytes of an activation")),
    "P": (law.PEERS, Quantity({}, "GPUs that reach each other directly over PCIe")),
}
"""Known numbers of the law; symbols here, so that their units count."""


def symbols() -> dict[str, Any]:
    """Return a sympy symbol for each quantity, constant and parameter."""
    import sympy

    names = [*QUANTITIES, *CONSTANTS, *LETTERS.values(), "b", "k", "r"]
    return {
        name: sympy.Symbol(name, positive=name not in ("v", "q"), nonnegative=True)
        for name in names
    }


def expressions(form: EnergyLens, phase: str) -> dict[str, Any]:
    """Return what each coefficient of a phase is multiplied with.

    Parameters
    ----------
    form
        The law.
    phase
        `prefill` or `decode`.

    Returns
    -------
    dict
        Name of the coefficient -> sympy expression in the symbols of `symbols`; joules per
        coefficient, for the whole batch on all GPUs.
    """
    import sympy

    s = symbols()
    b, k, replicas = s["b"], s["k"], s["r"]
    rho = s["rho"]
    if phase == "prefill":
        busy = replicas * (k + rho * (s["p"] - 1))
    else:
        busy = replicas * (s["m"] - 1) * (k + rho * (s["p"] - k))
    local = sympy.ceiling(s["B"] / s["d"])
    micro = sympy.ceiling(local / s["p"])
    known = {k: sympy.ceiling(local / b), replicas: sympy.Min(s["d"], s["B"])}
    bases = _bases(form, phase, s)
    own = [c.name for c in form.coefficients if c.phase in (phase, "both")]
    return {name: (busy * bases[name]).subs(known).subs(b, micro) for name in own}


def expression(form: EnergyLens, phase: str) -> Any:
    """Return the energy of a phase, J: the sum of letters times their expressions."""
    import sympy

    s = symbols()
    terms = expressions(form, phase)
    return sympy.Add(*(s[LETTERS[name]] * term for name, term in terms.items()))


def _bases(form: EnergyLens, phase: str, s: dict[str, Any]) -> dict[str, Any]:
    """Return one working pass term by term, in b and the quantities of a row."""
    import sympy

    b, t, n, u = s["b"], s["t"], s["n"], s["u"]
    factor = s["f"] if law.REDUCED in form.terms else sympy.Integer(1)
    exponent = s["e"] if law.SHARD_READ.name in form.terms else sympy.Integer(0)
    cost = 1 + s["q"] * (factor - 1)
    bridge = t * (t - 1) * _where(t > s["P"])
    latency = s["l"] / (s["j"] * s["h"]) * u
    if phase == "prefill":
        tokens = b * n
        used = s["g_0"] + (1 - s["g_0"]) * s["g"]
        floor = s["T_0"] * s["w"] * _coverage(tokens, s) / used
        work = cost * tokens * s["c"] + tokens * n * s["A"] / s["h"]
        return {
            "prefill_compute": sympy.sqrt(work**2 + (cost * floor) ** 2),
            "prefill_sharding": tokens * (t ** s["z"] - 1),
            "prefill_launch": t,
            "prefill_encoder": b * s["v"],
            "shared_bridge": (tokens + latency) * bridge,
        }
    weights = cost * s["w"] * _coverage(b * u, s) * t**exponent
    cache = s["kappa"] * b * (n + u * s["m"] / 2) + s["N"] * s["sigma"] * b
    rounds = 1 + _where(sympy.And(t > 2, t * b * s["h"] * s["j"] >= s["M"]))
    return {
        "decode_weights": weights + cache,
        "decode_tokens": b ** s["y"],
        "decode_sync": t * _where(t > 1) * rounds,
        "decode_launch": t,
        "decode_launch_extra": t * s["q"],
        "shared_bridge": (b * u + latency) * bridge,
    }


def _where(condition: Any) -> Any:
    """Return 1 where a condition holds, else 0."""
    import sympy

    return sympy.Piecewise((1, condition), (0, True))


def _coverage(tokens: Any, s: dict[str, Any]) -> Any:
    """Return the share of the weights that a pass over so many tokens reads."""
    count = tokens / s["u"]
    return s["g"] * count / (1 + s["g"] * (count - 1))


def values_of(
    work: Work, batch: NDArray[np.float64], data_parallel: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the value of each quantity and constant, for rows of the table.

    Parameters
    ----------
    work
        Work of the rows.
    batch, data_parallel
        B and d of the rows, which `Work` holds only as micro-batches, shape (rows,).
    """
    return {
        "B": batch,
        "d": data_parallel,
        "n": work.input_tokens,
        "m": work.steps + 1.0,
        "v": work.visual_tokens,
        "t": work.tensor,
        "p": work.stages,
        "w": work.weight_bytes,
        "c": work.compute_cost,
        "q": work.reduced,
        "g": 1.0 - work.idle_expert,
        "h": work.hidden_size,
        "kappa": work.cache_share,
        "sigma": work.state_share,
        **{name: value for name, (value, _) in CONSTANTS.items()},
    }


def evaluate(term: Any, values: dict[str, Any]) -> NDArray[np.float64]:
    """Return the values of an expression, shape (rows,).

    Parameters
    ----------
    term
        An expression of `expressions`, or a derivative of one.
    values
        Name of each symbol in it -> number, or array of shape (rows,).
    """
    import sympy

    names = sorted(str(x) for x in term.free_symbols)
    known = symbols()
    made = sympy.lambdify([known[name] for name in names], term, modules="numpy")
    result: NDArray[np.float64] = np.asarray(made(*(values[name] for name in names)), dtype=float)
    return np.broadcast_to(result, np.shape(values["B"])).astype(np.float64)


def unit_of(term: Any, values: dict[str, Any]) -> dict[str, int]:
    """Return the powers of the units of an expression: how it scales when units do.

    Every quantity that is counted in a unit is doubled (or halved) with it; an expression of one
    unit is then multiplied by a power of 2, the same in all rows.

    Raises
    ------
    ValueError
        If rows differ, or the power is no whole number: the expression adds unlike units.
    """
    found = {}
    base = evaluate(term, values)
    used = base > 0.0
    known = {**QUANTITIES, **{name: quantity for name, (_, quantity) in CONSTANTS.items()}}
    for unit in sorted({u for quantity in known.values() for u in quantity.unit}):
        scaled = {
            name: value * 2.0 ** known[name].unit.get(unit, 0) if name in known else value
            for name, value in values.items()
        }
        power = np.log2(evaluate(term, scaled)[used] / base[used])
        if np.ptp(power) > 1e-9 or abs(power[0] - round(power[0])) > 1e-9:
            raise ValueError(f"{term} adds unlike powers of {unit}")
        if round(power[0]):
            found[unit] = round(power[0])
    return found


_LATEX_TERMS: dict[str, str] = {
    "prefill_compute": "H",
    "prefill_sharding": r"T\,(t^{<z>}-1)",
    "prefill_launch": "t",
    "prefill_encoder": r"b\,v",
    "decode_weights": r"\left(f\,w\,C(b)\,t^{e}+b\,(\kappa\,(n+\tfrac{m}{2})+<N>\,\sigma)\right)",
    "decode_tokens": r"b^{<y>}",
    "decode_sync": r"t\,\mathbf{1}_{t>1}(1+s)",
    "decode_launch": "t",
    "decode_launch_extra": r"t\,q",
    "shared_bridge": r"(T+L)\,t\,(t-1)\,\mathbf{1}_{t><P>}",
}


def latex(form: EnergyLens) -> str:
    """Return the law as LaTeX, one line a phase and one for each definition."""
    lines = []
    for phase, head in (
        ("prefill", r"E_{\mathrm{prefill}} &= \left(k+\rho\,(p-1)\right)"),
        ("decode", r"E_{\mathrm{decode}} &= (m-1)\left(k+\rho\,(p-k)\right)"),
    ):
        terms = [
            f"{LETTERS[c.name]}\\,{_LATEX_TERMS[c.name]}"
            for c in form.coefficients
            if c.phase in (phase, "both")
        ]
        lines.append(f"{head}\\left[{' + '.join(terms)}\\right]")
    lines += [
        r"b &= \lceil B/p\rceil,\quad k=\lceil B/b\rceil,\quad "
        r"T = b\,n \text{ in prefill},\ b \text{ in decode}",
        r"H &= \sqrt{\left(T\,(f\,c+\tfrac{n}{12\,h})\right)^2"
        r"+\left(<T_0>\,f\,w\,C(T)\,R\right)^2}",
        r"C(x) &= \frac{g\,x}{1+g\,(x-1)},\quad R=1/(<g_0>+(1-<g_0>)\,g),\quad "
        r"L=<l>\,\mathrm{B}/(2\,h)",
    ]
    text = " \\\\\n".join(lines)
    for name, (value, _) in CONSTANTS.items():
        text = text.replace(f"<{name}>", f"{value:g}")
    if law.REDUCED not in form.terms:
        text = text.replace(r"f\,", "")
    if law.SHARD_READ.name not in form.terms:
        text = text.replace(r"\,t^{e}", "")
    return "\\begin{aligned}\n" + text + "\n\\end{aligned}"
