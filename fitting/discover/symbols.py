"""The symbols of a law: variables of rows, work terms and pure numbers, with their units."""

from __future__ import annotations

from fitting.discover.library import Variable

TABLE: dict[str, Variable] = {
    "t": Variable("1", "tensor parallel degree"),
    "p": Variable("1", "pipeline stages"),
    "d": Variable("1", "data parallel replicas"),
    "k": Variable("1", "micro-batches of a batch"),
    "b": Variable("request", "requests of a micro-batch"),
    "n": Variable("token/request", "input tokens of a request"),
    "v": Variable("token/request", "visual tokens of a request"),
    "s": Variable("1", "decode steps, output tokens - 1"),
    "w": Variable("1", "bytes of a weight over 2"),
    "c": Variable("1", "cost of a multiplication against bf16 by peak rates"),
    "q": Variable("1", "1 where weights have less than 16 bits"),
    "n0": Variable("token/request", "12 x width: length at which attention costs as the rest"),
    "kv": Variable("1/token", "cache of a token over all weights, bytes"),
    "state": Variable("1/request", "recurrent state of a sequence over all weights, bytes"),
    "ctx": Variable("token/request", "mean context of decoding"),
    "late": Variable("token", "tokens as dear as the latency of a message"),
    "lag": Variable("request", "the same of a step, where a request is one token"),
    "multi": Variable("1", "1 where t > 1"),
    "bridge": Variable("1", "1 where t > 2"),
    "two": Variable("1", "1 where an all-reduce takes two rounds"),
    "cover": Variable("1", "share of the weights that a pass reads (experts)"),
    "spare": Variable("1", "all weights over those that a token uses"),
    "T0": Variable("token", "tokens of a pass that take as long as reading the weights"),
    "cost": Variable("1", "what reduced precision costs beyond its bytes", "1 + q*(f - 1)"),
    "H": Variable(
        "token",
        "tokens of a pass with attention, at least the reading of the weights",
        "sqrt((b*n*(cost*c + n/n0))**2 + (T0*cost*w*cover*spare)**2)",
    ),
}
"""Symbols of batch rows."""

SERVING_TABLE: dict[str, Variable] = {
    "B": Variable("request", "largest number of requests at once"),
    "G": Variable("1", "GPUs"),
    "w": TABLE["w"],
    "c": TABLE["c"],
    "total": Variable("Gparam", "parameters, 10^9"),
    "active": Variable("Gparam", "parameters that a token uses, 10^9"),
    "read": Variable("Gparam", "parameters that a step of B requests reads, 10^9"),
    "vision": Variable("1", "1 where the input has images or video"),
}
"""Symbols of serving rows."""

INPUTS: dict[str, dict[str, Variable]] = {
    "prefill": {
        "work": Variable("token", "tokens of all passes with attention", "d*k*H"),
        "waiting": Variable("token", "the same of stages that wait", "d*(p - 1)*H"),
        "sent": Variable("token", "tokens that shards exchange", "d*k*b*n*(t**0.7 - 1)"),
        "bridged": Variable(
            "token", "tokens over a shared bridge", "d*k*(b*n + late)*t*(t - 1)*bridge"
        ),
        "launches": Variable("1", "passes on every GPU", "d*k*t"),
        "seen": Variable("token", "visual tokens", "d*k*b*v"),
    },
    "decode": {
        "weights": Variable("1", "times that weights are read", "d*s*k*w*cover"),
        "cache": Variable("1", "cache read, over weights", "d*s*k*kv*b*ctx"),
        "waiting": Variable("1", "weights that waiting stages hold", "d*s*(p - k)*w*cover"),
        "tokens": Variable("request", "tokens made", "d*s*k*b"),
        "launches": Variable("1", "steps on every GPU", "d*s*k*t"),
        "syncs": Variable("1", "steps with shards", "d*s*k*t*multi*(1 + two)"),
        "bridged": Variable("request", "tokens over a bridge", "d*s*k*(b + lag)*t*(t - 1)*bridge"),
    },
    "total": {
        "work": Variable("token", "tokens of all passes with attention", "d*k*H"),
        "sent": Variable("token", "tokens that shards exchange", "d*k*b*n*(t**0.7 - 1)"),
        "weights": Variable("1", "times that weights are read", "d*s*k*w*cover"),
        "cache": Variable("1", "cache read, over weights", "d*s*k*kv*b*ctx"),
        "waiting": Variable("1", "weights that waiting stages hold", "d*s*(p - k)*w*cover"),
        "tokens": Variable("request", "tokens made", "d*s*k*b"),
        "launches": Variable("1", "steps on every GPU", "d*s*k*t"),
    },
    "serving": {
        "weights": Variable("Gparam/request", "weights read for a token", "w*read/B"),
        "compute": Variable("Gparam", "multiplications of a token", "c*active"),
        "launches": Variable("1/request", "steps on every GPU, shared by B", "G/B"),
        "gpus": Variable("1", "GPUs", "G + 0"),
    },
}
"""Work terms that symbolic regression is given; it finds laws on them, not on raw columns."""

RATIOS: dict[str, dict[str, Variable]] = {
    "batch": {
        "shards": Variable("1", "tensor parallel degree", "t + 0"),
        "stages": Variable("1", "pipeline stages", "p + 0"),
        "passes": Variable("1", "micro-batches", "k + 0"),
        "requests": Variable("1", "requests of a micro-batch, against one", "b/b1"),
        "length": Variable(
            "1", "prompt against the length where attention costs as the rest", "n/n0"
        ),
    },
    "serving": {
        "gpus": Variable("1", "GPUs", "G + 0"),
        "requests": Variable("1", "requests at once, against one", "B/b1"),
        "density": Variable("1", "share of the parameters that a token uses", "active/total"),
    },
}
"""Pure numbers that a correction of a law may depend on."""
