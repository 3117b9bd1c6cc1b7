"""How a model is served: the engine, the GPU type, how many GPUs, and the precision."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["bf16", "fp16", "fp32", "fp8", "int8", "int4", "nvfp4", "mxfp4"]


class Deployment(BaseModel):
    """One way of serving a model.

    Parameters
    ----------
    engine
        Name of the serving engine.
    hardware
        Canonical id of the GPU type, as in ``harness.catalog.known_hardware()``.
    tensor_parallel, pipeline_parallel, data_parallel
        Ranks of each kind; a deployment uses their product in GPUs.
    expert_parallel
        Ranks over which the experts of a mixture are spread. They reuse the
        tensor-parallel and data-parallel ranks, so they add no GPU.
    precision
        Number format of the weights and of the matrix products.
    power_limit_w
        Power limit set on each GPU, in watts. None for the limit of the factory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    engine: str = "twin"
    hardware: str
    tensor_parallel: int = Field(default=1, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)
    expert_parallel: int = Field(default=1, ge=1)
    data_parallel: int = Field(default=1, ge=1)
    precision: Precision = "bf16"
    power_limit_w: float | None = Field(default=None, gt=0)

    @property
    def num_gpus(self) -> int:
        """GPUs that the deployment occupies."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def summary(self) -> str:
        """One readable word group, such as ``H100-SXM5-80GB t2 p4 fp8``."""
        parts = [self.hardware, f"t{self.tensor_parallel}", f"p{self.pipeline_parallel}"]
        if self.expert_parallel > 1:
            parts.append(f"ep{self.expert_parallel}")
        if self.data_parallel > 1:
            parts.append(f"dp{self.data_parallel}")
        parts.append(self.precision)
        if self.power_limit_w is not None:
            parts.append(f"{self.power_limit_w:g} W")
        return " ".join(parts)
