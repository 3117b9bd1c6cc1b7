"""The library of physical terms: products of factors that mean something, right ones and wrong.

A law of one phase is a front factor (how many passes are paid) times a sum of terms with
non-negative coefficients. Every term is a text over the variables of a row, so that one text is
the formula, the code and what the units are checked on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fitting.discover.units import Unit, unit


@dataclass(frozen=True, slots=True)
class Variable:
    """What a symbol stands for.

    Attributes
    ----------
    unit
        Its unit.
    meaning
        In one line.
    definition
        Formula over other symbols, where it is one.
    """

    unit: str
    meaning: str
    definition: str | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """One candidate term.

    Attributes
    ----------
    name
        Size and factor, such as `tokens x bridge`.
    text
        Formula of one working pass.
    unit
        Unit of its coefficient, J per what the term counts.
    meaning
        The physical cause, or why it should be rejected.
    plausible
        False for a term that physics rejects and the search should too.
    """

    name: str
    text: str
    unit: str
    meaning: str
    plausible: bool = True


@dataclass(frozen=True, slots=True)
class Front:
    """How many passes an energy pays for: the factor in front of the terms."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Exponent:
    """A parameter inside terms or front, with bounds and the values that a search starts from."""

    name: str
    grid: tuple[float, ...]
    lower: float
    upper: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Library:
    """All that a term search may build from.

    Attributes
    ----------
    terms, fronts, exponents
        The parts.
    shipped_front, shipped
        The law that EnergyLens ships, as a front and names of terms; none if it is no such sum.
    unit
        Unit of the energy.
    """

    terms: tuple[Term, ...]
    fronts: tuple[Front, ...]
    exponents: tuple[Exponent, ...]
    shipped_front: str
    shipped: tuple[str, ...]
    unit: str = "J"

    def term(self, name: str) -> Term:
        """Return a term by its name."""
        return next(term for term in self.terms if term.name == name)

    def front(self, name: str) -> Front:
        """Return a front by its name."""
        return next(front for front in self.fronts if front.name == name)


WAITING = Exponent("rho", (0.0, 0.1, 0.2, 0.3, 0.45, 0.7), 0.0, 1.0, "power of a waiting GPU")
SHARD = Exponent("e", (0.0, 0.08, 0.16, 0.3, 0.5, 0.7), 0.0, 1.0, "power of t in sharded work")
REDUCED = Exponent("f", (0.5, 0.8, 1.0, 1.4, 2.0, 3.0), 0.1, 10.0, "cost of reduced precision")

_SHARDS: dict[str, tuple[str, str]] = {
    "": ("1", ""),
    "sharded": ("t**e", "on t shards that are worked less efficiently"),
    "shard_cost": ("(t**0.7 - 1)", "all-reduce over direct links, smaller shards"),
    "each_gpu": ("t", "on every GPU of a stage"),
    "peers": ("(t - 1)", "for every further GPU of a stage"),
    "split": ("multi", "as soon as a stage is split"),
    "sync": ("t*multi*(1 + two)", "waiting for the other shards, in one or two rounds"),
    "bridge": ("t*(t - 1)*bridge", "through a bridge that more than two GPUs share"),
}

_PREFILL: dict[str, tuple[str, str, str]] = {
    "compute": ("H", "token", "multiplying, or reading the weights if that takes longer"),
    "tokens": ("b*n", "token", "work for every token"),
    "attention": ("b*n*n/n0", "token", "attention, square in the length of a prompt"),
    "weights": ("cost*w*cover", "1", "reading the weights once a pass"),
    "visual": ("b*v", "token", "vision encoder"),
    "requests": ("b", "request", "work for every request"),
    "launch": ("1", "1", "launches of a pass"),
    "quantise": ("q", "1", "launches that reduced precision adds"),
    "prompt": ("n", "token/request", "tokens of one request, whatever the batch"),
    "square": ("(b*n)*(b*n)", "token**2", "tokens of all requests attending to each other"),
}
_PREFILL_FACTORS: dict[str, tuple[str, ...]] = {
    "compute": ("", "sharded"),
    "tokens": ("", "sharded", "shard_cost", "each_gpu", "bridge"),
    "attention": ("", "sharded"),
    "weights": ("", "each_gpu"),
    "visual": ("", "each_gpu"),
    "requests": ("", "each_gpu"),
    "launch": ("", "each_gpu", "sync", "bridge"),
    "quantise": ("", "each_gpu"),
    "prompt": ("",),
    "square": ("",),
}

_DECODE: dict[str, tuple[str, str, str]] = {
    "reading": (
        "cost*w*cover + kv*b*ctx + 2*state*b",
        "1",
        "reading weights, cache and states, the same joules a byte",
    ),
    "weights": ("cost*w*cover", "1", "reading the weights that a step uses"),
    "all_weights": ("cost*w", "1", "reading all experts, used or not"),
    "cache": ("kv*b*ctx", "1", "reading the KV cache"),
    "state": ("state*b", "1", "reading and writing recurrent states"),
    "root_requests": ("b**0.4", "request**0.4", "work a sequence, partly hidden behind reading"),
    "requests": ("b", "request", "work for every sequence"),
    "launch": ("1", "1", "launches of a step"),
    "quantise": ("q", "1", "launches that reduced precision adds"),
    "prompt": ("n", "token/request", "tokens of one prompt, whatever the batch"),
    "visual": ("b*v", "token", "visual tokens, once more at every step"),
    "square": ("b*b", "request**2", "every sequence with every other"),
}
_DECODE_FACTORS: dict[str, tuple[str, ...]] = {
    "reading": ("", "sharded"),
    "weights": ("", "sharded", "each_gpu"),
    "all_weights": ("",),
    "cache": ("", "each_gpu"),
    "state": ("",),
    "root_requests": ("", "each_gpu"),
    "requests": ("", "each_gpu", "shard_cost", "bridge"),
    "launch": ("", "each_gpu", "split", "sync", "bridge"),
    "quantise": ("", "each_gpu"),
    "prompt": ("",),
    "visual": ("",),
    "square": ("",),
}
_WRONG = {"prefill": ("prompt", "square"), "decode": ("prompt", "square", "all_weights", "visual")}

_SPECIAL = {
    "reading x sharded": "cost*w*cover*t**e + kv*b*ctx + 2*state*b",
    "tokens x bridge": "(b*n + late)*t*(t - 1)*bridge",
    "requests x bridge": "(b + lag)*t*(t - 1)*bridge",
}
"""Only the weights are sharded less efficiently, caches and states are not. A message over a shared
bridge has a latency, counted in tokens."""


def _terms(
    sizes: Mapping[str, tuple[str, str, str]],
    factors: Mapping[str, tuple[str, ...]],
    wrong: tuple[str, ...],
) -> tuple[Term, ...]:
    """Return the products of sizes with the factors that go with them."""
    found = []
    for size, (text, counted, meaning) in sizes.items():
        for factor in factors[size]:
            shard, how = _SHARDS[factor]
            name = f"{size} x {factor}" if factor else size
            product = text if shard == "1" else shard if text == "1" else f"{_group(text)}*{shard}"
            per = str(Unit().times(unit("J")).times(unit(counted), -1.0))
            found.append(
                Term(
                    name,
                    _SPECIAL.get(name, product),
                    per,
                    f"{meaning}, {how}" if how else meaning,
                    size not in wrong,
                )
            )
    return tuple(found)


def _group(text: str) -> str:
    return f"({text})" if " " in text else text


PREFILL = Library(
    terms=_terms(_PREFILL, _PREFILL_FACTORS, _WRONG["prefill"]),
    fronts=(
        Front("one pass", "d"),
        Front("working passes", "d*k"),
        Front("stages", "d*p"),
        Front("working and waiting", "d*(k + rho*(p - 1))"),
    ),
    exponents=(WAITING, SHARD, REDUCED),
    shipped_front="working and waiting",
    shipped=("compute", "tokens x shard_cost", "launch x each_gpu", "visual", "tokens x bridge"),
)
"""Terms of prefill; the energy is front x sum of terms."""

DECODE = Library(
    terms=_terms(_DECODE, _DECODE_FACTORS, _WRONG["decode"]),
    fronts=(
        Front("one pass", "d*s"),
        Front("working passes", "d*s*k"),
        Front("stages", "d*s*p"),
        Front("working and waiting", "d*s*(k + rho*(p - k))"),
    ),
    exponents=(WAITING, SHARD, REDUCED),
    shipped_front="working and waiting",
    shipped=(
        "reading x sharded",
        "root_requests",
        "launch x sync",
        "launch x each_gpu",
        "quantise x each_gpu",
        "requests x bridge",
    ),
)
"""Terms of one decode step; s steps are paid."""


def _both(phase: str, library: Library, inside: str) -> tuple[Term, ...]:
    """Return the terms of a phase with its waiting front, to be added to those of the other."""
    from dataclasses import replace

    return tuple(
        replace(term, name=f"{phase}: {term.name}", text=f"{inside}*{_group(term.text)}")
        for term in library.terms
    )


_PREFIX = {"prefill": "(k + rho*(p - 1))", "decode": "s*(k + rho*(p - k))"}
TOTAL = Library(
    terms=_both("prefill", PREFILL, _PREFIX["prefill"])
    + _both("decode", DECODE, _PREFIX["decode"]),
    fronts=(Front("working and waiting", "d"),),
    exponents=(WAITING, SHARD, REDUCED),
    shipped_front="working and waiting",
    shipped=tuple(f"prefill: {name}" for name in PREFILL.shipped)
    + tuple(f"decode: {name}" for name in DECODE.shipped),
)
"""Terms of both phases at once, for rows that have total energies only."""

SERVING = Library(
    terms=(
        Term("weights", "w*read/B", "J*request/Gparam", "weights that a step reads, shared by B"),
        Term("weights x gpus", "w*read*G**0.3/B", "J*request/Gparam", "the same, on G shards"),
        Term("all_weights", "w*total/B", "J*request/Gparam", "all weights, used or not", False),
        Term("compute", "c*active", "J/Gparam", "multiplications of a token"),
        Term("compute x gpus", "c*active*G**0.3", "J/Gparam", "the same, on G shards"),
        Term("root", "sqrt(active)", "J/Gparam**0.5", "cache and activations of a token"),
        Term("launch", "1/B", "J*request", "launches of a step, shared by B"),
        Term("launch x gpus", "G/B", "J*request", "launches and idle draw, on every GPU"),
        Term("token", "1", "J", "work for every token"),
        Term("token x gpus", "G", "J", "work for every token on every GPU"),
        Term("square", "active*active", "J/Gparam**2", "square in the parameters", False),
        Term("batch", "B", "J/request", "more for every further request", False),
        Term("visual", "vision", "J", "images or video in the input"),
    ),
    fronts=(Front("a token", "1"),),
    exponents=(),
    shipped_front="a token",
    shipped=(),
    unit="J",
)
"""Terms of serving runs without lengths: joules for one output token. What `fitting.serving` ships
is made of times and powers, no sum of such terms."""

LIBRARIES = {"prefill": PREFILL, "decode": DECODE, "total": TOTAL, "serving": SERVING}
