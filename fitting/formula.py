"""A fitted law as text: every term with its number, unit, error and meaning in 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitting.forms.energylens12 import REDUCED

if TYPE_CHECKING:
    from fitting.pairfit import PairFit, Parameter

LEGEND = (
    "B batch, n input tokens (v of them visual), m output tokens, t tensor and p",
    "pipeline parallel; b = ceil(B/p), k = ceil(B/b) micro-batches; T tokens of a",
    "pass: b n in prefill, b in decode; H those of prefill with attention, at least",
    "what reading the weights costs; w bytes of a weight over 2; C share of the",
    "weights read; K cache and state read over all weights; s = 1 where an",
    "all-reduce takes two rounds; L tokens as dear as the latency of a message.",
)


REDUCED_LEGEND = (
    "q = 1 where weights have less than 16 bits, else 0; there f also multiplies",
    "the costs in H; with 16 bits f is 1.",
)


def formula_text(pair: PairFit) -> str:
    """Return the law of a pair, at most 80 columns wide."""
    form = pair.law
    n = len(form.coefficients)
    values = {p.name: p for p in pair.parameters}
    mixed = REDUCED in values
    lines = [f"{pair.model_id} on {pair.hardware}"[:80], _origin(pair), ""]
    heads = {
        "prefill": "prefill energy [J] = (k + rho (p - 1)) x (",
        "decode": "decode energy [J] = (m - 1) (k + rho (p - k)) x (",
    }
    for phase, head in heads.items():
        lines.append(head)
        for info in form.coefficients:
            if info.phase in (phase, "both"):
                lines.append(_line(values[info.name], mixed="f w" if mixed else "w"))
        lines.append(")")
    lines.append("with")
    lines.extend(_line(p) for p in pair.parameters[n:])
    lines += ["", *LEGEND, *(REDUCED_LEGEND if mixed else ())]
    return "\n".join(lines)


def _origin(pair: PairFit) -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in pair.provenance.items()) or f"{pair.n_rows}"
    return f"{pair.form}, {kinds} rows, left-out error {100 * pair.mape:.1f} % (mean)"[:80]


def _line(p: Parameter, mixed: str = "w") -> str:
    """Return one parameter: sign, value, error, unit, symbol."""
    if p.identifiable:
        number = f"{p.value:.4g} +- {p.stderr:.1g}"
    else:
        number = f"{p.value:.4g} (not identifiable: {p.lo:.2g} to {p.hi:.2g})"
    unit = f" {p.unit}" if p.unit else ""
    if p.unit:
        return f"  + {number}{unit} x {p.symbol.replace('f w', mixed)}"[:80]
    return f"  {p.symbol} = {number}"[:80]
