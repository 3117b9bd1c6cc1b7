"""The pooled law: one law over models and GPU types, with partial pooling where rows are few."""

from __future__ import annotations

from fitting.pooling.fit import fit_pooled
from fitting.pooling.law import FORM, NAME, PooledLaw
from fitting.pooling.stored import from_dict

__all__ = ["FORM", "NAME", "PooledLaw", "fit_pooled", "from_dict"]
