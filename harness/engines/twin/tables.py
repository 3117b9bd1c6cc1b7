"""Kernel times of one forward pass, from the silicon tables of aiconfigurator-core.

The only module that talks to aiconfigurator-core 0.12 (NVIDIA, Apache-2.0). A pass is one batch
going through all layers on one tensor-parallel group; pipelining is put on top elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.catalog import Hardware, ModelFacts
from harness.errors import EngineError

STRIDE = 32
"""Every STRIDE-th decode step is looked up; the ones between are interpolated by the tables."""

QUANTISATION: dict[str, tuple[str, str]] = {
    "bf16": ("bfloat16", "bfloat16"),
    "fp16": ("bfloat16", "bfloat16"),
    "fp8": ("fp8", "fp8"),
    "int8": ("int8_wo", "int8_wo"),
    "int4": ("int4_wo", "int4_wo"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "mxfp4": ("bfloat16", "w4a16_mxfp4"),
}
"""Precision -> modes of the dense and of the expert matrix products in the tables.

fp16 runs at bf16's speed on every listed GPU. mxfp4 quantises the experts only, as gpt-oss does.
No system has times of a weight-only 4-bit dense product, so `int4` of an expert model quantises
its experts only, and `int4` of a dense model is refused when its times are asked for.
"""


class NoKernelDataError(Exception):
    """The tables hold no times for an operator of this deployment or workload."""


@dataclass(frozen=True, slots=True)
class VisualInput:
    """Pictures of one request as the tables take them: video frames in pairs are pictures too."""

    pictures: int = 0
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class PassShape:
    """One micro-batch and what is asked of it."""

    batch: int
    text_tokens: int
    output_tokens: int
    visual: VisualInput = VisualInput()


@dataclass(frozen=True, slots=True)
class PassTimes:
    """Seconds of each operator, all layers together, and memory of one GPU in bytes.

    `decode_s` is summed over all steps after the first token.
    """

    encoder_s: dict[str, float]
    prefill_s: dict[str, float]
    decode_s: dict[str, float]
    weight_bytes: float
    cache_bytes: float
    other_bytes: float


class KernelTables:
    """Operator times of one model on one tensor-parallel group of one GPU type.

    Parameters
    ----------
    model, hardware
        Facts from the catalog; the hardware must name its tables.
    tensor_parallel, expert_parallel
        Ranks that share each layer; experts are split in `expert_parallel` groups of whole
        experts and the rest of the ranks split each expert.
    precision
        A key of `QUANTISATION`.

    Raises
    ------
    NoKernelDataError
        If the tables do not know the hardware, the architecture or the precision.
    """

    def __init__(
        self,
        model: ModelFacts,
        hardware: Hardware,
        tensor_parallel: int,
        expert_parallel: int,
        precision: str,
    ) -> None:
        if hardware.twin_system is None or hardware.twin_version is None:
            raise NoKernelDataError(f"no kernel tables for {hardware.hardware}")
        if tensor_parallel % expert_parallel:
            raise NoKernelDataError(
                f"expert_parallel {expert_parallel} does not divide "
                f"tensor_parallel {tensor_parallel}"
            )
        self._database = _database(hardware.twin_system, hardware.twin_version)
        self._backend = _backend()
        modes = _modes(precision, hardware, bool(model.experts))
        self.model = self._build(model, tensor_parallel, expert_parallel, modes)
        self.encoder_operators: list[Any] = list(self.model.encoder_ops)
        self.prefill_operators: list[Any] = list(self.model.context_ops)
        self.decode_operators: list[Any] = list(self.model.generation_ops)

    def _build(
        self, model: ModelFacts, ranks: int, expert_ranks: int, modes: tuple[str, str]
    ) -> Any:
        from aiconfigurator_core.sdk import config_builders, models

        dense, experts = modes
        try:
            settings = config_builders.build_model_config(
                tp_size=ranks,
                pp_size=1,
                attention_dp_size=1,
                moe_tp_size=ranks // expert_ranks,
                moe_ep_size=expert_ranks,
                gemm_quant_mode=dense,
                moe_quant_mode=experts if model.experts else None,
            )
            return models.get_model(str(_config_folder(model.config_path)), settings, "vllm")
        except (KeyError, ValueError, NotImplementedError, RuntimeError, AssertionError) as error:
            raise NoKernelDataError(_first_line(error)) from error

    def times(self, shape: PassShape) -> PassTimes:
        """Times and memory of one pass.

        Raises
        ------
        NoKernelDataError
            If an operator has no measured neighbour to interpolate from.
        """
        from aiconfigurator_core.sdk import config

        visual = shape.visual
        request = config.RuntimeConfig(
            batch_size=shape.batch,
            isl=max(shape.text_tokens, 1),
            osl=shape.output_tokens,
            image_height=visual.height,
            image_width=visual.width,
            num_images_per_request=max(visual.pictures, 1),
        )
        try:
            summary = self._backend.run_static(
                self.model, self._database, request, "static", STRIDE, 1.0
            )
        except (RuntimeError, ValueError, KeyError, NotImplementedError) as error:
            raise NoKernelDataError(_first_line(error)) from error
        memory = summary.get_memory()
        weights, cache = memory["weights"] * 2**30, memory["kvcache"] * 2**30
        return PassTimes(
            _seconds(summary.get_encoder_latency_dict()),
            _seconds(summary.get_context_latency_dict()),
            _seconds(summary.get_generation_latency_dict()),
            weights,
            cache,
            memory["total"] * 2**30 - weights - cache,
        )


def _modes(precision: str, hardware: Hardware, has_experts: bool) -> tuple[str, str]:
    """Modes of the dense and the expert products for one precision on one GPU type."""
    if precision not in QUANTISATION:
        raise NoKernelDataError(f"no kernel tables for precision {precision}")
    dense, experts = QUANTISATION[precision]
    if precision == "int4" and has_experts:
        dense = "bfloat16"
    if precision == "fp8" and hardware.architecture == "Hopper":
        # Experts with one scale a tensor run untuned there, three times slower than bf16;
        # published FP8 checkpoints of expert models scale by blocks, and so does the twin.
        experts = "fp8_block"
    return dense, experts


def tables_version() -> str:
    """Version of the installed kernel tables."""
    from importlib.metadata import version

    return version("aiconfigurator-core")


def _seconds(milliseconds: dict[str, float]) -> dict[str, float]:
    return {name: value / 1e3 for name, value in milliseconds.items() if value > 0}


def _first_line(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    # The tables name files of the installed package; a reader wants the operator, not the path.
    text = text.replace("perf database error: ", "")
    return text.split(" (first:")[0].split(" at /")[0][:200]


@lru_cache(maxsize=16)
def _database(system: str, version: str) -> Any:
    from aiconfigurator_core.sdk import perf_database

    logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
    database = perf_database.get_database(system, "vllm", version)
    if database is None:
        raise NoKernelDataError(f"no vLLM {version} tables for {system}")
    return database


@lru_cache(maxsize=1)
def _backend() -> Any:
    try:
        from aiconfigurator_core.sdk.backends.factory import get_backend
    except ImportError as error:
        raise EngineError(
            "the twin engine needs aiconfigurator-core, which cannot be imported",
            where=str(error),
            fix="pip install 'aiconfigurator-core>=0.12,<0.13'",
        ) from error
    return get_backend("vllm")


@lru_cache(maxsize=1)
def _config_root() -> Path:
    import atexit

    root = Path(tempfile.mkdtemp(prefix="energylens-configs-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@lru_cache(maxsize=256)
def _config_folder(config_path: Path) -> Path:
    """Put a model's config into a folder of its own, where the tables' package looks for it."""
    content = config_path.read_bytes()
    folder = _config_root() / hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    target = folder / "config.json"
    if not target.exists():
        target.write_bytes(content)
    return folder
