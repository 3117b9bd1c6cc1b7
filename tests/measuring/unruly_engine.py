"""An engine without a model: runs sleep, and some batch sizes crash, hang or run out of memory."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from harness.engines.base import RunStamps
from harness.errors import EngineError, NotSupportedError, OutOfMemoryError
from harness.meters.none import NoMeter

SEGFAULT, HANG, NO_MEMORY, KILLED, BROKEN, REFUSED = 13, 17, 19, 23, 29, 31


class UnrulyEngine:
    name = "unruly"
    provenance = "measured"
    isolated = True

    def __init__(self, run_s: float = 0.002, open_crash: bool = False, log: str = "") -> None:
        self.run_s = run_s
        self.open_crash = open_crash
        self.log = log

    def version(self, hardware):
        return "1"

    def open(self, model, deployment, seed):
        if self.open_crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        return UnrulySession(self.run_s, self.log)


class UnrulySession:
    virtual = False
    phases = ("prefill", "decode", "full")

    def __init__(self, run_s: float, log: str) -> None:
        self.run_s = run_s
        self.log = log
        self.meter = NoMeter("a test")

    def environment(self):
        return {"engine": "unruly"}

    def prepare(self, workloads):
        pass

    def run(self, workload, phase, count):
        if self.log:
            with Path(self.log).open("a") as stream:
                stream.write(f"{os.getpid()} {workload.batch} {phase} {count}\n")
        match workload.batch:
            case 13:
                os.kill(os.getpid(), signal.SIGSEGV)
            case 17:
                time.sleep(3600)
            case 19:
                raise OutOfMemoryError("no memory for this", where="batch 19")
            case 23:
                os.kill(os.getpid(), signal.SIGKILL)
            case 29:
                error = EngineError("an illegal memory access was encountered")
                error.kind = "engine_broken"
                raise error
            case 31:
                raise NotSupportedError("no such input", where="batch 31")
        share = {"prefill": 0.25, "decode": 0.75, "full": 1.0}[phase]
        starts, firsts, ends = [], [], []
        for _ in range(count):
            begin = time.monotonic_ns()
            time.sleep(self.run_s * share)
            end = time.monotonic_ns()
            starts.append(begin)
            first = {"prefill": end, "decode": begin, "full": begin + (end - begin) // 4}[phase]
            firsts.append(first)
            ends.append(end)
        return RunStamps(np.array(starts), np.array(firsts), np.array(ends))

    def rest(self, seconds):
        begin = time.monotonic_ns()
        time.sleep(seconds)
        return begin, time.monotonic_ns()

    def close(self):
        pass
