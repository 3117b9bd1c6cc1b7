"""What is asked of a recommendation: a workload, limits, and what may be chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.errors import EnergyLensError

MODALITIES = ("text", "image", "video")


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper limits that the chosen configuration must meet; None is no limit.

    Attributes
    ----------
    max_gpus
        Number of GPUs of one deployment.
    ttft_s
        Time to first token of the whole batch, in seconds.
    tpot_s
        Time per output token after the first, in seconds.
    """

    max_gpus: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("--max-gpus", self.max_gpus),
            ("--ttft-ms", self.ttft_s),
            ("--tpot-ms", self.tpot_s),
        ):
            if value is not None and not value > 0:
                raise EnergyLensError(
                    f"{name} must be above zero", where=f"{name} {value}", fix="give a larger limit"
                )

    @property
    def on_latency(self) -> bool:
        """Whether a limit on latency is set."""
        return self.ttft_s is not None or self.tpot_s is not None


def check_modality(name: str) -> None:
    """Refuse a modality that is none.

    Raises
    ------
    EnergyLensError
        With the known ones.
    """
    if name not in MODALITIES:
        raise EnergyLensError(
            f"unknown modality {name!r}", where="--modality", fix=f"one of {', '.join(MODALITIES)}"
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One question: which configuration serves this workload with the least energy.

    Attributes
    ----------
    model_id
        Model to serve.
    batch
        Batch sizes that may be chosen (one size: it is given).
    input_tokens, output_tokens
        Tokens of one request; visual tokens are part of `input_tokens`.
    visual_tokens, images, frames
        Visual part of one request.
    hardware, precision
        Names that may be chosen; empty: all that the fit holds.
    """

    model_id: str
    batch: tuple[int, ...]
    input_tokens: int
    output_tokens: int
    modality: str = "text"
    visual_tokens: int = 0
    images: int = 0
    frames: int = 0
    hardware: tuple[str, ...] = ()
    precision: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_modality(self.modality)
        if not self.batch:
            raise EnergyLensError("no batch size given", where="--batch", fix="give at least one")
        for name, value in (
            ("--batch", min(self.batch)),
            ("--input-tokens", self.input_tokens),
            ("--output-tokens", self.output_tokens),
        ):
            if value < 1:
                raise EnergyLensError(
                    f"{name} must be at least 1", where=f"{name} {value}", fix="give 1 or more"
                )
        if not 0 <= self.visual_tokens <= self.input_tokens:
            raise EnergyLensError(
                f"{self.visual_tokens} visual tokens do not fit in {self.input_tokens} input "
                "tokens, which include them",
                where="--input-tokens, --visual-tokens",
                fix="raise --input-tokens to text plus visual tokens",
            )
