"""The energy of image and video generation by diffusion transformers: one law for all of them."""

from fitting.diffusion.law import NAME, DiffusionLaw, from_dict
from fitting.diffusion.solve import fit_diffusion
from fitting.diffusion.work import diffusion_rows

__all__ = ["NAME", "DiffusionLaw", "diffusion_rows", "fit_diffusion", "from_dict"]
