"""Visual inputs at the sizes a processor would hand over: grids, placeholders, pixels.

An image side is rounded to the nearest whole token, as the Qwen-VL processors do
(`smart_resize`); their limits on pixels are taken to be set wide enough. What the placeholders
come to must be the visual tokens of the workload, else the size is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from harness.catalog import ModelFacts, VisionFacts
from harness.errors import CatalogError, NotSupportedError
from harness.spec import Workload

MAX_ASPECT = 200
"""Longest side over shortest that the Qwen-VL processors accept."""


class VisionInputs(Protocol):
    """The visual part of a workload."""

    def place(self, ids: Any, out: dict[str, Any]) -> None:
        """Write placeholders into the token ids (batch, tokens), and token types into `out`."""
        ...

    def fill(
        self, batch: int, out: dict[str, Any], generator: Any, device: str, dtype: Any
    ) -> None:
        """Add random pixels and their grids to `out`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Sizes, for the record of the environment."""
        ...


def vision_inputs(facts: ModelFacts, config: Any, workload: Workload) -> VisionInputs:
    """Return the visual part of a workload with images or video.

    Raises
    ------
    NotSupportedError
        If the model takes none, the size is broken, or the tokens do not come out as declared.
    """
    where = f"{facts.model_id}, {workload.modality} of {_size(workload)}"
    tower = facts.vision
    if tower is None:
        raise NotSupportedError(
            f"{facts.model_id} takes no images or video",
            where=where,
            fix="use modality text, or a model with a vision tower",
        )
    height, width = workload.image_height, workload.image_width
    video = workload.modality == "video"
    pieces = workload.frames if video else workload.images
    if min(height, width, pieces) < 1:
        raise NotSupportedError(
            "broken image size: height, width and number must be at least 1",
            where=where,
            fix="give images (or frames), image_height and image_width in the sweep",
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise NotSupportedError(
            f"broken image size: one side is more than {MAX_ASPECT} times the other",
            where=where,
            fix="use images nearer to a square",
        )
    try:
        if video:
            tokens = facts.video_tokens(workload.frames, height, width)
        else:
            tokens = workload.images * facts.visual_tokens(height, width)
    except CatalogError as error:
        raise NotSupportedError(f"broken image size: {error.what}", where=where) from error
    if tokens != workload.visual_tokens:
        raise NotSupportedError(
            f"broken image size: this input is {tokens} visual tokens, not the "
            f"{workload.visual_tokens} of the workload",
            where=where,
            fix=f"set visual_tokens to {tokens}",
        )
    if tower.architecture.startswith("qwen"):
        return _qwen(tower, config, workload, where)
    if tower.architecture.startswith("siglip"):
        return _gemma(tower, config, workload, where)
    raise NotSupportedError(
        f"inputs for a vision tower of type {tower.architecture!r} are not made here",
        where=where,
        fix="use modality text for this model",
    )


def _size(workload: Workload) -> str:
    number = workload.frames if workload.modality == "video" else workload.images
    return f"{number} x {workload.image_height} x {workload.image_width} pixels"


def _qwen(tower: VisionFacts, config: Any, workload: Workload, where: str) -> VisionInputs:
    rows, columns = tower.grid(workload.image_height, workload.image_width)
    video = workload.modality == "video"
    frames = workload.frames if video else tower.temporal_patch_size
    groups = math.ceil(frames / tower.temporal_patch_size)
    per_frame = video and "qwen2" not in tower.architecture
    if video:
        blocks = [rows * columns] * groups if per_frame else [groups * rows * columns]
    else:
        blocks = [rows * columns] * workload.images
    _room(workload, len(blocks), where)
    name = "video_token_id" if video else "image_token_id"
    return QwenVision(
        video=video,
        pieces=1 if video else workload.images,
        grid=(groups, rows * tower.spatial_merge_size, columns * tower.spatial_merge_size),
        patch_values=config.vision_config.in_channels
        * tower.temporal_patch_size
        * tower.patch_size**2,
        blocks=tuple(blocks),
        placeholder=int(getattr(config, name)),
        marks=(int(config.vision_start_token_id), int(config.vision_end_token_id)),
        patch_size=tower.patch_size,
    )


def _gemma(tower: VisionFacts, config: Any, workload: Workload, where: str) -> VisionInputs:
    pieces = workload.frames if workload.modality == "video" else workload.images
    tokens = workload.visual_tokens // pieces
    _room(workload, pieces, where)
    return SquareVision(
        pieces=pieces,
        side=int(config.vision_config.image_size),
        blocks=(tokens,) * pieces,
        placeholder=int(config.image_token_id),
        marks=(int(config.boi_token_index), int(config.eoi_token_index)),
    )


def _room(workload: Workload, blocks: int, where: str) -> None:
    if workload.text_tokens < 2 * blocks:
        raise NotSupportedError(
            f"{workload.text_tokens} text tokens are too few: each of {blocks} visual blocks has a "
            "mark before and after it",
            where=where,
            fix=f"set input_tokens to at least {workload.visual_tokens + 2 * blocks}",
        )


def _place(
    ids: Any, out: dict[str, Any], blocks: tuple[int, ...], marks: tuple[int, int], token: int
) -> list[slice]:
    """Put the blocks at the start of every prompt, each between its marks; return where."""
    at, spans = 0, []
    for tokens in blocks:
        ids[:, at] = marks[0]
        ids[:, at + 1 : at + 1 + tokens] = token
        ids[:, at + 1 + tokens] = marks[1]
        spans.append(slice(at + 1, at + 1 + tokens))
        at += tokens + 2
    return spans


@dataclass(frozen=True, slots=True)
class QwenVision:
    """Qwen-VL: flattened patches at native resolution, with a grid for each image or video.

    Attributes
    ----------
    pieces
        Images or videos of a prompt.
    grid
        Groups of frames, patch rows, patch columns of each.
    patch_values
        Pixel values of one patch.
    blocks
        Visual tokens of each run of placeholders.
    """

    video: bool
    pieces: int
    grid: tuple[int, int, int]
    patch_values: int
    blocks: tuple[int, ...]
    placeholder: int
    marks: tuple[int, int]
    patch_size: int

    def place(self, ids: Any, out: dict[str, Any]) -> None:
        """Write placeholders, and 1 (image) or 2 (video) as their token type."""
        import torch

        kinds = torch.zeros_like(ids, dtype=torch.int32)
        for span in _place(ids, out, self.blocks, self.marks, self.placeholder):
            kinds[:, span] = 2 if self.video else 1
        out["mm_token_type_ids"] = kinds

    def fill(
        self, batch: int, out: dict[str, Any], generator: Any, device: str, dtype: Any
    ) -> None:
        """Add flattened patches (patches, values) and grids (pieces, 3)."""
        import torch

        pieces = batch * self.pieces
        kind = "video" if self.video else "image"
        out["pixel_values_videos" if self.video else "pixel_values"] = torch.randn(
            (pieces * math.prod(self.grid), self.patch_values),
            generator=generator,
            device=device,
            dtype=dtype,
        )
        out[f"{kind}_grid_thw"] = torch.tensor([self.grid] * pieces)

    def describe(self) -> dict[str, Any]:
        """Pixels after resizing."""
        return {
            "height_px": self.grid[1] * self.patch_size,
            "width_px": self.grid[2] * self.patch_size,
            "frame_groups": self.grid[0] if self.video else None,
            "images": None if self.video else self.pieces,
        }


@dataclass(frozen=True, slots=True)
class SquareVision:
    """Gemma 3: every image or frame is a square of one size and a fixed number of tokens."""

    pieces: int
    side: int
    blocks: tuple[int, ...]
    placeholder: int
    marks: tuple[int, int]

    def place(self, ids: Any, out: dict[str, Any]) -> None:
        """Write placeholders, and 1 as their token type."""
        import torch

        kinds = torch.zeros_like(ids)
        for span in _place(ids, out, self.blocks, self.marks, self.placeholder):
            kinds[:, span] = 1
        out["token_type_ids"] = kinds

    def fill(
        self, batch: int, out: dict[str, Any], generator: Any, device: str, dtype: Any
    ) -> None:
        """Add pixels (images, 3, side, side)."""
        import torch

        out["pixel_values"] = torch.randn(
            (batch * self.pieces, 3, self.side, self.side),
            generator=generator,
            device=device,
            dtype=dtype,
        )

    def describe(self) -> dict[str, Any]:
        """Pixels after resizing."""
        return {"height_px": self.side, "width_px": self.side, "images": self.pieces}
