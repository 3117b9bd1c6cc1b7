"""What a recommendation answers: the choice, how sure it is, and what it was chosen from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from energylens.recommendation.command import checkpoint_note, vllm_command
from energylens.recommendation.request import Request


@dataclass(frozen=True, slots=True)
class Choice:
    """One candidate configuration with its predicted energy and its latencies.

    Attributes
    ----------
    total_energy_j, total_energy_lo_j, total_energy_hi_j
        Energy of the whole batch on all GPUs of the deployment, with its 95 % interval.
    prefill_energy_j, decode_energy_j
        The two phases of it.
    energy_per_output_token_j
        What candidates are ranked by; the batch may differ between them.
    latency_source
        `run` (found there), `interpolated` or `unknown`.
    latency_error
        Relative error of an interpolated latency (90 % of held-out rows err less).
    extrapolated
        Whether the configuration lies outside what the law was fitted on.
    probability_best
        Share of Monte Carlo draws in which no candidate within the limits used less.
    over_limits
        Names of the limits that the candidate breaks, with value / limit.
    """

    hardware: str
    num_gpus: int
    tensor_parallel: int
    pipeline_parallel: int
    expert_parallel: int
    data_parallel: int
    precision: str
    batch: int
    total_energy_j: float
    total_energy_lo_j: float
    total_energy_hi_j: float
    prefill_energy_j: float
    decode_energy_j: float
    energy_per_output_token_j: float
    ttft_s: float | None
    tpot_s: float | None
    total_latency_s: float | None
    latency_source: str
    latency_error: float | None
    extrapolated: bool
    probability_best: float | None = None
    over_limits: dict[str, float] = field(default_factory=dict)

    @property
    def parallelism(self) -> str:
        """Short name of the parallel layout, as in `TP4 PP2`."""
        parts = [f"TP{self.tensor_parallel}"]
        for label, value in (
            ("PP", self.pipeline_parallel),
            ("EP", self.expert_parallel),
            ("DP", self.data_parallel),
        ):
            if value > 1:
                parts.append(f"{label}{value}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to a `Request`.

    Attributes
    ----------
    met
        Whether any candidate meets the limits; if not, `best` and what follows is None
        and `binding_limit` and `nearest_miss` say why.
    regret_bound
        E(best) / E(true best) - 1 that 95 % of the Monte Carlo draws do not exceed.
    latency_penalty
        Extra energy of the fastest candidate within the limits, as a fraction.
    provenance
        Where the data behind the law comes from.
    notes
        Anything the reader should know before acting on the answer.
    """

    request: Request
    met: bool
    best: Choice | None
    runner_up: Choice | None
    regret_bound: float | None
    fastest: Choice | None
    latency_penalty: float | None
    binding_limit: str | None
    nearest_miss: Choice | None
    candidates: tuple[Choice, ...]
    provenance: str
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str | None:
        """Return the `vllm serve` line of the best configuration, None where none meets."""
        if self.best is None:
            return None
        return vllm_command(
            self.request.model_id,
            tensor_parallel=self.best.tensor_parallel,
            pipeline_parallel=self.best.pipeline_parallel,
            expert_parallel=self.best.expert_parallel,
            data_parallel=self.best.data_parallel,
            precision=self.best.precision,
            batch=self.best.batch,
            input_tokens=self.request.input_tokens,
            output_tokens=self.request.output_tokens,
            images=self.request.images,
            frames=self.request.frames,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        answer = asdict(self)
        answer["command"] = self.command
        if self.best is not None:
            answer["checkpoint"] = checkpoint_note(self.best.precision)
        return answer
