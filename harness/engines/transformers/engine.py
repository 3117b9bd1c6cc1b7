"""The transformers engine: any model of the catalog, random weights, one device.

Real time and real devices: an NVIDIA or AMD GPU, or the CPU where the deployment's hardware is
called CPU. What the sensors say is measured; what shapes cost is what is learnt, for the weights
are random.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.catalog import Hardware, ModelFacts
from harness.engines.transformers.configs import read_config
from harness.engines.transformers.devices import (
    Device,
    Kind,
    find_device,
    free_memory_bytes,
    synchroniser,
)
from harness.engines.transformers.environment import describe, engine_version
from harness.engines.transformers.failures import release_memory, translate
from harness.engines.transformers.idle import idle_power_w, processes_on
from harness.engines.transformers.memory import check_weights
from harness.engines.transformers.quantise import check_precision, quantise
from harness.engines.transformers.session import TransformersSession
from harness.engines.transformers.weights import DTYPES, build
from harness.errors import EngineError, NotSupportedError
from harness.spec import Deployment

if TYPE_CHECKING:
    from harness.meters.base import Meter

MeterFactory = Callable[[Kind, Sequence[str]], "Meter"]
"""Kind of device (cuda, rocm, cpu) and its UUIDs -> a meter that reads exactly those."""


class TransformersEngine:
    """Opens sessions on one GPU or on the CPU.

    Parameters
    ----------
    device
        ``auto`` (what the deployment's hardware says), ``cpu``, ``cuda`` or ``cuda:N``.
    attention
        Attention implementation, such as ``sdpa`` or ``eager``; None for the library's choice.
    threads
        Host threads; None for torch's choice.
    meter_period_s
        Time between two polls of the sensor.
    meter_factory
        Makes the meter; None for the sensors of this machine.
    clock_ns, sleep
        Monotonic clock and pause.
    """

    name = "transformers"
    provenance = "measured"
    isolated = True

    def __init__(
        self,
        device: str = "auto",
        attention: str | None = None,
        threads: int | None = None,
        meter_period_s: float = 0.02,
        meter_factory: MeterFactory | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._device = device
        self._attention = attention
        self._threads = threads
        self._meter_period_s = meter_period_s
        self._meter_factory = meter_factory or self._sensors
        self._clock_ns = clock_ns
        self._sleep = sleep

    def version(self, hardware: Hardware) -> str:
        """Versions of transformers, torch and CUDA."""
        _installed()
        return engine_version()

    def open(self, model: ModelFacts, deployment: Deployment, seed: int) -> TransformersSession:
        """Build the model on the device that the deployment names.

        Raises
        ------
        NotSupportedError
            If the device is another one, or model, precision or parallelism cannot be run.
        OutOfMemoryError
            If the weights do not fit.
        MeterError
            If the power sensor is there but cannot be read.
        """
        _installed()
        where = f"{model.model_id} on {deployment.summary}"
        _one_device(deployment, where)
        check_precision(model, deployment.precision, where)
        config = read_config(model.config_path)
        device = find_device(deployment.hardware, self._device)
        meter = self._meter_factory(device.kind, [device.uuid] if device.uuid else [])
        try:
            if device.works_on_cpu and device.kind != "cpu" and not meter.simulated:
                raise NotSupportedError(
                    f"the work would be done by the CPU and the power read from {device.name}",
                    where="engine option device",
                    fix="leave the option out",
                )
            return self._load(model, config, deployment, device, meter, seed, where)
        except Exception as error:  # the caller gets no session to close
            meter.close()
            ours = translate(error, where)
            error.__traceback__ = None  # its frames hold the weights
        release_memory()
        raise ours

    def _load(
        self,
        facts: ModelFacts,
        config: Any,
        deployment: Deployment,
        device: Device,
        meter: Meter,
        seed: int,
        where: str,
    ) -> TransformersSession:
        import torch

        idle: dict[str, float | None] = {"bare_w": self._idle(meter)}
        foreign = None if device.kind == "cpu" else processes_on(meter, self._clock_ns)
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        synchronise = synchroniser(device)
        if not device.works_on_cpu:
            torch.zeros(1, device=device.torch_name)
            synchronise()
            idle["context_w"] = self._idle(meter)
        check_weights(facts, deployment.precision, free_memory_bytes(device), where)
        dtype = DTYPES.get(deployment.precision, "bfloat16")
        model = build(config, dtype, device.torch_name, self._attention, seed, where)
        library = quantise(model, deployment.precision, where)
        synchronise()
        idle["loaded_w"] = self._idle(meter)
        environment = describe(
            model,
            device,
            dtype=dtype,
            quantisation=library,
            seed=seed,
            facts=facts,
        )
        return TransformersSession(
            model,
            facts,
            deployment,
            device,
            meter,
            seed=seed,
            environment={
                **environment,
                "meter": _meter(meter),
                "idle_power": idle,
                "foreign_processes": foreign,
            },
            clock_ns=self._clock_ns,
            sleep=self._sleep,
        )

    def _idle(self, meter: Meter) -> float | None:
        return idle_power_w(meter, clock_ns=self._clock_ns, sleep=self._sleep)

    def _sensors(self, kind: Kind, uuids: Sequence[str]) -> Meter:
        from harness.meters.choose import open_meter
        from harness.meters.sensor_cache import load_facts

        return open_meter(kind, uuids, period_s=self._meter_period_s, sensor_facts=load_facts)


def _installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise EngineError(
            f"the transformers engine needs {' and '.join(missing)}",
            where="this Python environment",
            fix="pip install 'energylens[transformers]'",
        )


def _meter(meter: Meter) -> dict[str, Any]:
    return {
        "name": meter.name,
        "scope": meter.scope,
        "simulated": meter.simulated,
        "reason": getattr(meter, "reason", None),
    }


def _one_device(deployment: Deployment, where: str) -> None:
    ranks = {
        "tensor_parallel": deployment.tensor_parallel,
        "pipeline_parallel": deployment.pipeline_parallel,
        "data_parallel": deployment.data_parallel,
        "expert_parallel": deployment.expert_parallel,
    }
    more = [f"{name} {value}" for name, value in ranks.items() if value > 1]
    if more:
        raise NotSupportedError(
            f"the transformers engine runs on one device, not with {', '.join(more)}",
            where=where,
            fix="use the engine vllm for several GPUs",
        )
