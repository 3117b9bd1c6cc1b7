"""The law of image and video generation: energy of a batch from its work, shared by all models.

    E = S_m S_h [ D + ( (phi D)^q + L^q )^(1/q) ]
    D = a1 F_linear + a2 F_attention + a3 A + x_m (a4 U + a5 R) + a6 X
    L = y_m y_h (b1 + b2 [G > 1] + b3 (r - 1)) G s l P

D is the energy of switching; what a GPU draws while it is on comes on top: for as long as the work
takes (phi D), or as long as the host needs to launch the kernels (L), whichever is longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.diffusion.work import LAUNCH_TERMS, WORK_TERMS, Work, covered, work
from fitting.facts import Facts

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NAME = "energylens_diffusion"
VERSION = 1

SHARPNESS = 6.0
"""q: how sharply the longer of work and launching takes over; near a maximum."""

PARAMETERS: tuple[tuple[str, str, str, str], ...] = (
    ("linear", "a1", "J/TFLOP", "matrix products of the latent tokens with the weights"),
    ("attention", "a2", "J/TFLOP", "attention, the square of the tokens"),
    ("activations", "a3", "J/10^9", "values that norms, rotations, activations write"),
    ("exchange", "a4", "J/10^9", "values exchanged between the GPUs of a sequence"),
    ("ring", "a5", "J/10^9", "values handed round the ring, on top"),
    ("pixels", "a6", "J/megapixel", "decoding and text encoding, repeated on every GPU"),
    ("launch", "b1", "J/1000 blocks", "launching the kernels of a block, at a limit of 700 W"),
    ("launch_parallel", "b2", "J/1000 blocks", "more of them where there are several GPUs"),
    ("launch_ring", "b3", "J/1000 blocks", "more of them for each hop of the ring"),
    ("static_share", "phi", "-", "drawn for being on over drawn for switching, while busy"),
)
"""The 10 shared parameters: name, symbol, unit, what they count."""

MODEL_EFFECTS: dict[str, float] = {"scale": 0.15, "traffic": 0.3, "launch": 0.3}
HARDWARE_EFFECTS: dict[str, float] = {"scale": 0.15, "launch": 0.3}
"""What a model or a GPU type may change (S, x, y), as logarithms: prior standard deviations."""


@dataclass(frozen=True, slots=True)
class DiffusionLaw:
    """A fitted law.

    Attributes
    ----------
    parameters
        Name in `PARAMETERS` -> value.
    models, hardware
        Model id or GPU type -> effect -> logarithm; names that were not fitted have none.
    params
        Model id -> parameters of the model, for the estimate of models that are not known.
    facts
        Facts of the models and GPU types that it was fitted on.
    half_widths
        Half width of the 95 % interval of the logarithm of the energy, for rows of a known model
        and GPU type (`known`), of a model that was not fitted (`model`), of one whose architecture
        is estimated, too (`estimated`), of a GPU type that was not fitted (`hardware`).
    provenance
        Rows fitted by provenance.
    """

    parameters: Mapping[str, float]
    models: Mapping[str, Mapping[str, float]]
    hardware: Mapping[str, Mapping[str, float]]
    params: Mapping[str, float]
    facts: Facts
    half_widths: Mapping[str, float]
    provenance: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the law, as in a FIT file."""
        return NAME

    def covers(self, frame: pd.DataFrame, facts: Facts | None = None) -> NDArray[np.bool_]:
        """Say which rows are of image or video generation, shape (rows,).

        A model needs facts or a number of parameters.
        """
        keep = covered(frame)
        if keep.any():
            size = frame["params_total"] if "params_total" in frame.columns else None
            names = self.facts if facts is None else self.facts.joined(facts)
            known = frame["model_id"].astype(str).isin(list(names.diffusion)).to_numpy()
            if size is not None:
                known = known | (size.to_numpy(dtype=np.float64, na_value=np.nan) > 0.0)
            keep &= known
        return keep

    def predict(self, frame: pd.DataFrame, facts: Facts | None = None) -> NDArray[np.float64]:
        """Return total_energy_j of each row, J, shape (rows,); NaN where it does not cover a row.

        Parameters
        ----------
        frame
            Rows with the columns of `fitting.diffusion.work.NEEDED`, `model_id`, `hardware`.
        facts
            Facts of models and GPU types beside those that it keeps.
        """
        known = self if facts is None else replace(self, facts=self.facts.joined(facts))
        keep = known.covers(frame)
        result = np.full(len(frame), np.nan)
        if keep.any():
            rows = frame.loc[keep]
            result[keep] = energies(known.work(rows), known.parameters, *known.effects(rows))[0]
        return result

    def work(self, frame: pd.DataFrame) -> Work:
        """Return the work of covered rows."""
        return work(frame, self.facts.diffusion, self.params, self.facts.hardware)

    def effects(
        self, frame: pd.DataFrame
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return S, x and y of each row, shape (rows,) each; 1 where nothing was fitted."""

        def of(known: Mapping[str, Mapping[str, float]], column: str, effect: str) -> Any:
            values = {k: v.get(effect, 0.0) for k, v in known.items()}
            return frame[column].astype(str).map(values).fillna(0.0).to_numpy(dtype=np.float64)

        scale = of(self.models, "model_id", "scale") + of(self.hardware, "hardware", "scale")
        launch = of(self.models, "model_id", "launch") + of(self.hardware, "hardware", "launch")
        return np.exp(scale), np.exp(of(self.models, "model_id", "traffic")), np.exp(launch)

    def predict_phases(self, frame: pd.DataFrame, facts: Facts | None = None) -> pd.DataFrame:
        """Return total_energy_j with its 95 % prediction interval; NaN for both phases, J."""
        import pandas as pd

        total = self.predict(frame, facts)
        half = np.exp(self.half_width(frame, facts))
        nothing = np.full(len(frame), np.nan)
        columns: dict[str, NDArray[np.float64]] = {}
        for phase in ("prefill_energy_j", "decode_energy_j"):
            columns |= {phase: nothing, f"{phase}_lo": nothing, f"{phase}_hi": nothing}
        columns["total_energy_j"] = total
        columns["total_energy_j_lo"] = total / half
        columns["total_energy_j_hi"] = total * half
        return pd.DataFrame(columns, index=frame.index)

    def half_width(self, frame: pd.DataFrame, facts: Facts | None = None) -> NDArray[np.float64]:
        """Return the half width of the 95 % interval of the log energy, shape (rows,)."""
        ids = frame["model_id"].astype(str)
        new_model = ~ids.isin(list(self.models)).to_numpy()
        shapes = self.facts.joined(facts or Facts()).diffusion
        unknown = new_model & ~ids.isin(list(shapes)).to_numpy()
        new_gpu = ~frame["hardware"].astype(str).isin(list(self.hardware)).to_numpy()
        known = self.half_widths["known"]
        model = np.where(new_model, self.half_widths["model"], known)
        model = np.where(unknown, self.half_widths["estimated"], model)
        gpu = np.where(new_gpu, self.half_widths["hardware"], known)
        result: NDArray[np.float64] = np.sqrt(model**2 + gpu**2 - known**2)
        return result

    def adapted(self, rows: pd.DataFrame, facts: Facts | None = None) -> DiffusionLaw:
        """Return the law with the effects of the models and GPU types of a few more rows.

        The shared parameters stay. Models and GPU types that were fitted before keep their effects.
        """
        from fitting.diffusion.solve import adapt

        return adapt(self, rows, facts or Facts())

    def formula(self) -> str:
        """Return the law as text, with numbers and units."""
        p = self.parameters
        lines = [
            f"E = S_model S_gpu [ D + ((phi D)^{SHARPNESS:g} + L^{SHARPNESS:g})^(1/{SHARPNESS:g})"
            " ]   [J]",
            "D = a1 F_linear + a2 F_attention + a3 A + x_model (a4 U + a5 R) + a6 X",
            "L = y_model y_gpu (b1 + b2 [G > 1] + b3 (r - 1)) G steps layers P/700 W / 1000",
        ]
        lines += [f"{s} = {p[n]:.4g} {u}: {what}" for n, s, u, what in PARAMETERS]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": NAME,
            "version": VERSION,
            "parameters": dict(self.parameters),
            "models": {k: dict(v) for k, v in self.models.items()},
            "hardware": {k: dict(v) for k, v in self.hardware.items()},
            "params": dict(self.params),
            "facts": self.facts.to_dict(),
            "half_widths": dict(self.half_widths),
            "provenance": dict(self.provenance),
        }


def from_dict(data: Mapping[str, Any]) -> DiffusionLaw:
    """Rebuild a law from `DiffusionLaw.to_dict`."""
    return DiffusionLaw(
        parameters={k: float(v) for k, v in data["parameters"].items()},
        models={k: dict(v) for k, v in data["models"].items()},
        hardware={k: dict(v) for k, v in data["hardware"].items()},
        params={k: float(v) for k, v in data["params"].items()},
        facts=Facts.from_dict(data["facts"]),
        half_widths={k: float(v) for k, v in data["half_widths"].items()},
        provenance={k: int(v) for k, v in data["provenance"].items()},
    )


def energies(
    of: Work,
    parameters: Mapping[str, float],
    scale: NDArray[np.float64],
    traffic: NDArray[np.float64],
    launch: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the energy, J, shape (rows,), and its logarithmic derivatives, shape (rows, 12).

    The derivatives of log E are by the logarithms of the 10 parameters, of x, and of y.
    """
    busy = of.terms * np.array([parameters[name] for name in WORK_TERMS])
    busy[:, 3:5] *= traffic[:, None]
    waits = of.launches * np.array([parameters[name] for name in LAUNCH_TERMS]) * launch[:, None]
    switching, waiting = busy.sum(axis=1), waits.sum(axis=1)
    static = parameters["static_share"] * switching
    larger = np.maximum(np.maximum(static, waiting), 1e-300)
    on = larger * ((static / larger) ** SHARPNESS + (waiting / larger) ** SHARPNESS) ** (
        1.0 / SHARPNESS
    )
    total = switching + on
    by_static = (static / on) ** (SHARPNESS - 1.0)
    by_launch = (waiting / on) ** (SHARPNESS - 1.0)
    by_work = 1.0 + parameters["static_share"] * by_static
    slopes = np.column_stack(
        [
            busy * by_work[:, None],
            waits * by_launch[:, None],
            static * by_static,
            busy[:, 3:5].sum(axis=1) * by_work,
            waiting * by_launch,
        ]
    )
    return total * scale, slopes / total[:, None]
