"""Analytic estimates from datasheets and architecture facts, where there are no kernel times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.plan.estimator import Refusal, TaskEstimate, memory_refusal
from harness.spec.deployment import Deployment
from harness.spec.grid import WEIGHT_ONLY
from harness.spec.workload import Workload

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts

COMPUTE_EFFICIENCY = 0.5
"""Share of the peak FLOP/s taken as reached; an assumption of planning, not a measurement."""
BANDWIDTH_EFFICIENCY = 0.7
"""Share of the peak memory bandwidth taken as reached; an assumption of planning."""
ACTIVATION_BYTES = 2.0
"""Bytes of an activation value: 16-bit formats."""


class RooflineEstimator:
    """Time from FLOPs and bytes over peak; energy as if every GPU drew its power limit.

    The energy is therefore an upper bound for the estimated time. Communication is not
    counted. Good enough to order work and to keep within a budget, not to compare
    deployments: that is what measuring is for.
    """

    name = "roofline"

    def fits(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Refusal | None]:
        """Compare weights, KV cache and activations with the memory of a GPU."""
        return [
            memory_refusal(memory_bytes(model, deployment, workload), hardware)
            for workload in workloads
        ]

    def estimate(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[TaskEstimate]:
        """Estimate each workload, micro-batches in a pipeline included."""
        return [self._one(model, hardware, deployment, workload) for workload in workloads]

    def _one(
        self, model: ModelFacts, hardware: Hardware, deployment: Deployment, workload: Workload
    ) -> TaskEstimate:
        stages = deployment.pipeline_parallel
        requests = math.ceil(workload.batch / deployment.data_parallel)
        micro_batch = math.ceil(requests / stages)
        count = math.ceil(requests / micro_batch)
        prefill_s = _pass_s(model, hardware, deployment, micro_batch, workload, prefill=True)
        step_s = _pass_s(model, hardware, deployment, micro_batch, workload, prefill=False)
        prefill_s *= 1 + (count - 1) / stages
        decode_s = (workload.output_tokens - 1) * step_s * max(1.0, count / stages)
        power_w = deployment.power_limit_w or hardware.power_limit_w
        energy_j = deployment.num_gpus * power_w * (prefill_s + decode_s)
        return TaskEstimate(prefill_s, decode_s, energy_j, self.name)


def memory_bytes(model: ModelFacts, deployment: Deployment, workload: Workload) -> float:
    """Bytes that the fullest GPU holds: its share of weights, KV cache, state, activations.

    The whole batch is admitted at once, as in a clean measurement of the prefill. KV heads
    that tensor parallelism cannot split are copied.
    """
    ranks, stages = deployment.tensor_parallel, deployment.pipeline_parallel
    requests = math.ceil(workload.batch / deployment.data_parallel)
    weights = model.weight_bytes(deployment.precision) / (ranks * stages)
    split = max(1, min(ranks, model.kv_heads or ranks))
    cache = requests * model.kv_bytes_per_sequence(workload.context_tokens) / (split * stages)
    state = requests * model.state_bytes_per_sequence / (ranks * stages)
    width = model.intermediate_size
    if model.experts:
        width = max(
            width,
            model.experts_per_token * model.expert_intermediate_size
            + model.shared_expert_intermediate_size,
        )
    tokens = math.ceil(requests / stages) * workload.input_tokens
    activations = tokens * (4 * model.hidden_size + 2 * width / ranks) * ACTIVATION_BYTES
    return weights + cache + state + activations


def _pass_s(
    model: ModelFacts,
    hardware: Hardware,
    deployment: Deployment,
    requests: int,
    workload: Workload,
    *,
    prefill: bool,
) -> float:
    """Seconds of one micro-batch through all layers: the slower of arithmetic and memory."""
    ranks = deployment.tensor_parallel
    if prefill:
        tokens = requests * workload.input_tokens
        context = workload.input_tokens / 2
        flops = tokens * model.flops_per_token(context) + requests * _vision_flops(model, workload)
        cache_bytes = 0.0
    else:
        tokens = requests
        context = workload.input_tokens + workload.output_tokens / 2
        flops = tokens * model.flops_per_token(context)
        cache_bytes = requests * (
            model.kv_bytes_per_sequence(context) + 2 * model.state_bytes_per_sequence
        )
    bytes_moved = _weights_read(model, deployment.precision, tokens) + cache_bytes
    peak = _peak_flops(hardware, deployment.precision)
    bandwidth = hardware.memory_bandwidth_bytes_per_s
    return max(
        flops / (ranks * peak * COMPUTE_EFFICIENCY),
        bytes_moved / (ranks * bandwidth * BANDWIDTH_EFFICIENCY),
    )


def _peak_flops(hardware: Hardware, precision: str) -> float:
    """Peak of the matrix products: at 16 bits for formats of the weights only."""
    return hardware.flops_for("bf16" if precision in WEIGHT_ONLY else precision)


def _vision_flops(model: ModelFacts, workload: Workload) -> float:
    """FLOPs of the vision tower for one request: two for each parameter and patch."""
    if model.vision is None or not workload.visual_tokens:
        return 0.0
    patches = workload.visual_tokens * model.vision.spatial_merge_size**2
    return 2.0 * model.vision.params * patches


def _weights_read(model: ModelFacts, precision: str, tokens: float) -> float:
    """Bytes of weights that a pass reads: of the experts only those some token is sent to."""
    weights = model.weight_bytes(precision)
    if not model.experts:
        return weights
    untouched: float = (1 - model.experts_per_token / model.experts) ** tokens
    experts = model.params_experts / model.params_total
    return weights * (1 - experts * untouched)
