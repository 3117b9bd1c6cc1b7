"""What is measured: four kinds of model, and a fixed, space-filling list of workloads for each.

    Halton points u_1, u_2, ... in (0, 1)^3  ->  batch, input, output    every prefix is spread out

Halton, "On the efficiency of certain quasi-random sequences of points" (1960), bases 2, 3 and 5;
what would take too many tokens is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from harness.catalog import ModelFacts
from harness.spec.workload import Workload

T = TypeVar("T")
Kind = Literal["dense", "moe", "ssm", "vision"]

BATCHES = (1, 2, 4, 8, 16, 32, 64)
INPUTS = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
OUTPUTS = (32, 48, 64, 96, 128, 192, 256)
TEXTS = (64, 96, 128, 192, 256)
"""Text tokens beside images or frames."""
IMAGES = ((1, 448), (1, 672), (2, 448), (1, 1024), (4, 448), (2, 672), (2, 1024), (4, 672))
"""Images of a request and their side in pixels."""
CLIPS = ((4, 448), (8, 320), (8, 448), (4, 640), (16, 320), (16, 448), (8, 672), (16, 672))
"""Frames of a request and their side in pixels."""

_BASES = (2, 3, 5)
_SHORT = 3.5
"""Exponent that prefers short outputs: the time of decoding grows with them, its law does not."""
_CHECK_OUTPUT = 48
"""Longest output in the first launch of a group, which runs every phase by itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """Models of one kind, and how they are measured.

    Attributes
    ----------
    kind
        dense, moe, ssm or vision.
    candidates
        Model ids, the wanted one first; a smaller one takes its place where memory is short.
    most_tokens
        Largest batch times input tokens.
    most_output
        Longest output.
    launches
        Workloads of each launch; the first one checks the phases in three ways.
    """

    kind: Kind
    candidates: tuple[str, ...]
    most_tokens: int
    most_output: int
    launches: tuple[int, ...]


GROUPS = (
    Group("dense", ("meta-llama/Meta-Llama-3.1-8B", "Qwen/Qwen3-1.7B"), 32768, 256, (5, 8, 8)),
    Group(
        "vision",
        ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-2B-Instruct"),
        16384,
        192,
        (5, 8, 8),
    ),
    Group("moe", ("Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b"), 16384, 128, (5, 8)),
    # Reference kernels hold a chunk-by-chunk product for every token: modest sizes only.
    Group(
        "ssm",
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "state-spaces/mamba2-2.7b"),
        2048,
        96,
        (5, 8),
    ),
)


def workloads_of(facts: ModelFacts, group: Group) -> list[Workload]:
    """Return the workloads of a group in the order in which they are measured."""
    wanted = sum(group.launches)
    out: list[Workload] = []
    for point in _points():
        workload = _workload(facts, group, point, len(out))
        small = workload.batch * workload.input_tokens <= group.most_tokens
        if small and workload not in out:
            out.append(workload)
        if len(out) == wanted:
            return out
    raise AssertionError("unreachable: the points do not end")


def _points() -> Iterator[tuple[float, float, float]]:
    i = 0
    while True:
        i += 1
        x, y, z = (_radical_inverse(i, base) for base in _BASES)
        yield x, y, z


def _radical_inverse(number: int, base: int) -> float:
    """Return the digits of `number` mirrored at the point."""
    out, scale = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        out += digit * scale
        scale /= base
    return out


def _workload(
    facts: ModelFacts, group: Group, point: tuple[float, float, float], position: int
) -> Workload:
    batch = _at(BATCHES, point[0])
    longest = group.most_output
    if position < group.launches[0]:
        longest = min(longest, _CHECK_OUTPUT)
    outputs = [output for output in OUTPUTS if output <= longest]
    output = _at(outputs, point[2] ** _SHORT)
    if group.kind != "vision" or position % 5 == 4:
        return Workload(batch=batch, input_tokens=_at(INPUTS, point[1]), output_tokens=output)
    text = _at(TEXTS, (point[1] * len(IMAGES)) % 1)
    if position % 2 == 0:
        number, side = _at(IMAGES, point[1])
        visual = number * facts.visual_tokens(side, side)
        return Workload(
            modality="image",
            batch=batch,
            input_tokens=visual + text,
            output_tokens=output,
            visual_tokens=visual,
            images=number,
            image_height=side,
            image_width=side,
        )
    number, side = _at(CLIPS, point[1])
    visual = facts.video_tokens(number, side, side)
    return Workload(
        modality="video",
        batch=batch,
        input_tokens=visual + text,
        output_tokens=output,
        visual_tokens=visual,
        frames=number,
        image_height=side,
        image_width=side,
    )


def _at(values: Sequence[T], share: float) -> T:
    return values[min(int(share * len(values)), len(values) - 1)]
