"""A load on a GPU of the scripted driver: it writes the power that a real one would draw."""

from __future__ import annotations

from scripted import ScriptedNvml


class ScriptedLoad:
    """Square bursts; with a context the GPU rests at a higher power."""

    def __init__(
        self, nvml: ScriptedNvml, gpu: int, high_w: float = 600.0, context_w: float = 110.0
    ) -> None:
        self.nvml, self.gpu, self.high_w, self.context_w = nvml, gpu, high_w, context_w
        self.end_ns = 0
        self.closed = False
        self.spans: list[tuple[int, int]] = []

    def prepare(self) -> None:
        self.nvml.set_power(self.gpu, self.nvml.now_ns(), self.context_w)

    def start(self, seconds: float) -> None:
        start_ns = self.nvml.now_ns()
        self.end_ns = start_ns + round(seconds * 1e9)
        self.nvml.set_power(self.gpu, start_ns, self.high_w)
        self.nvml.set_power(self.gpu, self.end_ns, self.context_w)
        self.spans.append((start_ns, self.end_ns))

    def done(self) -> bool:
        return self.nvml.now_ns() >= self.end_ns

    def edges(self) -> list[tuple[int, int]]:
        spans, self.spans = self.spans, []
        return spans

    def close(self) -> None:
        self.closed = True
