"""The EnergyLens law: at most 12 parameters a (model, hardware), and its smaller sibling with 6.

Both follow the pipeline rule: a batch of B requests passes through p stages in k micro-batches
of b = ceil(B/p) requests. Stages that wait draw idle power, a share rho of working power. So a
phase costs the energy of one working pass times (passes + rho x passes' worth of waiting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.forms.base import Coefficient, Exponent
from fitting.work import Work

Array = NDArray[np.float64]
Theta = Sequence[float | Array]

ROOFLINE_TOKENS = 128.0
"""Tokens of a pass below which prefill reads weights rather than computes (16-bit weights)."""

ALWAYS_USED = 0.05
"""Share of the parameters of an MoE model that every token uses: attention, embeddings."""

SHARD_POWER = 0.7
"""How fast the cost of sharding a prefill grows with t: all-reduce traffic over smaller shards."""

ROUTING_SKEW = 0.8
"""Revision 1: x tokens reach as many experts as x^0.8 tokens that choose evenly."""

SEQUENCE_POWER = 0.4
"""How work per sequence grows with their number: partly hidden behind the reading of weights."""

STATE_PASSES = 2.0
"""A recurrent state is read and written once a step; a cached token is only read."""

LATENCY_BYTES = 2.0**14
"""A message over a shared bridge costs as much as if it were so many bytes larger: its latency."""

ATTENTION = 1.0 / 12.0
"""Attention over n tokens costs n / (12 h) of the other multiplications of a layer of width h:
2 n h FLOP a token (half of the n^2 is masked) beside 24 h^2."""

PEERS = 2.0
"""GPUs that reach each other directly over PCIe; more of them share the host's bridge."""

MOST_PARAMETERS = 12
"""Parameters that the law never exceeds, whatever the rows of a pair call for."""

REVISION = 2
"""Revision of the columns. FIT files of version 2 hold laws of revision 1, without the latency of
messages and the recurrent state, with b^0.5 and with experts that differ less."""

ENCODER = "prefill_encoder"
EXTRA_LAUNCH = "decode_launch_extra"
REDUCED = "reduced_precision_cost"

WAITING = Exponent(
    "waiting_power_ratio", "rho", "", 0.0, 1.0, 0.25, "power of a waiting GPU over a working one"
)
SHARD_READ = Exponent(
    "weight_shard_exponent",
    "e",
    "",
    0.0,
    0.8,
    0.05,
    "t^e: smaller weight shards are read less efficiently",
)
REDUCED_COST = Exponent(
    REDUCED, "f", "", 0.1, 10.0, 1.0, "cost of reduced precision over what its bytes promise"
)

_TERMS = (
    Coefficient(
        "prefill_compute", "prefill", "J/token", "H", "multiplying, or reading the weights if few"
    ),
    Coefficient(
        "prefill_sharding", "prefill", "J/token", "T (t^0.7 - 1)", "all-reduce, smaller shards"
    ),
    Coefficient("prefill_launch", "prefill", "J", "t", "kernel launches of a pass, on every GPU"),
    Coefficient(ENCODER, "prefill", "J/token", "b v", "vision encoder, visual tokens v"),
    Coefficient(
        "decode_weights", "decode", "J", "(f w C t^e + K)", "reading weights, KV cache and state"
    ),
    Coefficient("decode_tokens", "decode", "J", "b^0.4", "work per sequence, partly hidden"),
    Coefficient("decode_sync", "decode", "J", "t [t>1] (1+s)", "waiting for the other shards"),
    Coefficient("decode_launch", "decode", "J", "t", "kernel launches of a step, on every GPU"),
    Coefficient(EXTRA_LAUNCH, "decode", "J", "t [q]", "launches that reduced precision adds"),
    Coefficient(
        "shared_bridge",
        "both",
        "J/token",
        "(T + L) t (t-1) [t>2]",
        "all-reduce through a shared bridge",
    ),
)
_NONLINEAR = (WAITING, SHARD_READ, REDUCED_COST)

_PLAIN = tuple(
    p.name for p in (*_TERMS, *_NONLINEAR) if p.name not in (ENCODER, EXTRA_LAUNCH, REDUCED)
)
_SMALL = (
    "prefill_compute",
    "prefill_launch",
    "decode_weights",
    "decode_launch",
    "shared_bridge",
    "waiting_power_ratio",
)


def prefill_busy(work: Work, rho: float | Array) -> Array:
    """Return k + rho (p - 1) per replica: working passes plus the waiting they cause."""
    return work.replicas * (work.passes + rho * (work.stages - 1.0))


def decode_busy(work: Work, rho: float | Array) -> Array:
    """Return (m - 1) (k + rho (p - k)): steps times working and waiting stages."""
    return work.replicas * work.steps * (work.passes + rho * (work.stages - work.passes))


def coverage(work: Work, tokens: Array, revision: int) -> Array:
    """Return C, the share of the weights that a pass over so many tokens reads."""
    return work.coverage(tokens**ROUTING_SKEW) if revision == 1 else work.reached(tokens)


def roofline_tokens(
    work: Work, cost: Array | float = 1.0, revision: int = REVISION
) -> tuple[Array, Array]:
    """Return H, the tokens of a pass bounded from below by the reading of weights, and dH/df.

    H = sqrt((T (f c + n / 12 h))^2 + (128 f w C R)^2) with T = b n tokens, c and w the cost of a
    multiplication and the bytes of a weight against bf16, f what they cost beyond that, C the
    share of the weights that the pass reads, and R the weights that there are for one that a
    token uses (1 without experts).
    """
    tokens = work.micro_batch * work.input_tokens
    used = ALWAYS_USED + (1.0 - ALWAYS_USED) * (1.0 - work.idle_expert)
    floor = ROOFLINE_TOKENS * work.weight_bytes * coverage(work, tokens, revision) / used
    multiplied = tokens * work.compute_cost
    computed = cost * multiplied + tokens * work.input_tokens * ATTENTION / work.hidden_size
    height: Array = np.hypot(computed, cost * floor)
    return height, (computed * multiplied + cost * floor**2) / height


@dataclass(frozen=True, slots=True)
class EnergyLens:
    """The law of docs/law.md, or some of its terms.

    Attributes
    ----------
    name
        Name in the registry.
    terms
        Names of the parameters that are fitted. The vision encoder is one where rows have
        visual tokens, the two of reduced precision where rows have both 16-bit and reduced.
    extends
        Whether `suited` may add those.
    revision
        Revision of the columns; see `REVISION`.
    """

    name: str
    terms: tuple[str, ...]
    extends: bool = True
    revision: int = REVISION

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        """Coefficients of the law; see `Form.coefficients`."""
        return tuple(c for c in _TERMS if c.name in self.terms)

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        """Parameters that enter non-linearly; see `Form.exponents`."""
        return tuple(e for e in _NONLINEAR if e.name in self.terms)

    @property
    def most_parameters(self) -> int:
        """Most parameters that are fitted to a pair; see `Form.most_parameters`."""
        return MOST_PARAMETERS if self.extends else len(self.terms)

    def suited(self, work: Work) -> EnergyLens:
        """Return the law with the terms that these rows call for, at most 12 parameters."""
        if not self.extends:
            return self
        added: list[str] = []
        if (work.visual_tokens > 0.0).any():
            added.append(ENCODER)
        reduced = work.reduced > 0.0
        if reduced.any() and not reduced.all():
            added += [REDUCED] if added else [REDUCED, EXTRA_LAUNCH]
        return self.with_terms((*self.terms, *added))

    def with_terms(self, terms: Sequence[str]) -> EnergyLens:
        """Return the law with exactly the named parameters."""
        return replace(self, terms=tuple(terms))

    def columns(self, work: Work, phase: str, theta: Theta) -> list[Array]:
        """Return the design columns of a phase; see `Form.columns`."""
        busy = (prefill_busy if phase == "prefill" else decode_busy)(work, theta[0])
        return [busy * base for base, _, _ in self._bases(work, phase, theta)]

    def slopes(self, work: Work, phase: str, theta: Theta) -> list[list[Array | None]]:
        """Return d(column)/d(rho, e, f); see `Form.slopes`."""
        bases = self._bases(work, phase, theta)
        if phase == "prefill":
            waiting = work.replicas * (work.stages - 1.0)
        else:
            waiting = work.replicas * work.steps * (work.stages - work.passes)
        busy = (prefill_busy if phase == "prefill" else decode_busy)(work, theta[0])
        out: list[list[Array | None]] = [[waiting * base for base, _, _ in bases]]
        if SHARD_READ.name in self.terms:
            out.append([None if by_e is None else busy * by_e for _, by_e, _ in bases])
        if REDUCED in self.terms:
            out.append([None if by_f is None else busy * by_f for _, _, by_f in bases])
        return out

    def expression(self, phase: str) -> Any:
        """Return the energy of a phase, J, as a sympy expression; see `forms.symbolic`."""
        from fitting.forms.symbolic import expression

        return expression(self, phase)

    def latex(self) -> str:
        """Return the law as LaTeX."""
        from fitting.forms.symbolic import latex

        return latex(self)

    def _bases(
        self, work: Work, phase: str, theta: Theta
    ) -> list[tuple[Array, Array | None, Array | None]]:
        """Return one working pass term by term, each with d/de and d/df or None."""
        exponent = theta[1] if SHARD_READ.name in self.terms else 0.0
        factor = theta[-1] if REDUCED in self.terms else 1.0
        cost = 1.0 + work.reduced * (factor - 1.0)
        t, b = work.tensor, work.micro_batch
        bridge = t * (t - 1.0) * (t > PEERS)
        first = self.revision == 1
        latency = 0.0 if first else LATENCY_BYTES / (2.0 * work.hidden_size)
        bases: dict[str, tuple[Array, Array | None, Array | None]]
        if phase == "prefill":
            tokens = b * work.input_tokens
            height, by_cost = roofline_tokens(work, cost, self.revision)
            bases = {
                "prefill_compute": (height, None, work.reduced * by_cost),
                "prefill_sharding": (tokens * (t**SHARD_POWER - 1.0), None, None),
                "prefill_launch": (t, None, None),
                ENCODER: (b * work.visual_tokens, None, None),
                "shared_bridge": ((tokens + latency) * bridge, None, None),
            }
        else:
            context = work.input_tokens + 0.5 * (work.steps + 1.0)
            weights = work.weight_bytes * coverage(work, b, self.revision) * t**exponent
            cache = work.cache_share * b * context
            if not first:
                cache = cache + STATE_PASSES * work.state_share * b
            bases = {
                "decode_weights": (
                    cost * weights + cache,
                    cost * weights * np.log(t),
                    work.reduced * weights,
                ),
                "decode_tokens": (np.sqrt(b) if first else b**SEQUENCE_POWER, None, None),
                "decode_sync": (t * (t > 1.0) * (1.0 + work.two_shot), None, None),
                "decode_launch": (t, None, None),
                EXTRA_LAUNCH: (t * work.reduced, None, None),
                "shared_bridge": ((b + latency) * bridge, None, None),
            }
        return [bases[c.name] for c in self.coefficients if c.name in bases]


ENERGYLENS12 = EnergyLens("energylens12", _PLAIN)
"""The law, before `suited` adds what the rows of a pair call for."""

EVERY_TERM = ENERGYLENS12.with_terms([p.name for p in (*_TERMS, *_NONLINEAR)])
"""The law with all of its terms; no pair is fitted with all of them at once."""

ENERGYLENS6 = EnergyLens("energylens6", _SMALL, extends=False)
"""The law for few rows: compute and launches, reading, the bridge between GPUs, waiting."""

RETIRED: dict[str, EnergyLens] = {
    f"{form.name}@1": replace(form, name=f"{form.name}@1", revision=1)
    for form in (ENERGYLENS12, ENERGYLENS6)
}
"""Laws of older FIT files, which still predict; nothing new is fitted with them."""
