"""What is asked of a model: how many requests, how long, and of which modality."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["text", "image", "video"]


class Workload(BaseModel):
    """A batch of equal requests.

    Parameters
    ----------
    modality
        Kind of input: text, image or video.
    batch
        Requests served together.
    input_tokens
        Tokens that enter the language model for each request, visual tokens included.
    output_tokens
        Tokens generated for each request.
    visual_tokens
        The part of ``input_tokens`` that comes from images or video frames.
    images, frames
        Images of a request, or frames of its video clip.
    image_height, image_width
        Size of each image or frame, in pixels.
    request_rate_per_s
        Arrival rate of a serving run, in requests a second. None for a fixed batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    modality: Modality = "text"
    batch: int = Field(ge=1)
    input_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    visual_tokens: int = Field(default=0, ge=0)
    images: int = Field(default=0, ge=0)
    frames: int = Field(default=0, ge=0)
    image_height: int = Field(default=0, ge=0)
    image_width: int = Field(default=0, ge=0)
    request_rate_per_s: float | None = Field(default=None, gt=0)

    @property
    def text_tokens(self) -> int:
        """Input tokens of a request that are not visual."""
        return self.input_tokens - self.visual_tokens

    @property
    def context_tokens(self) -> int:
        """Longest context of a request: its input and all of its output, in tokens."""
        return self.input_tokens + self.output_tokens
