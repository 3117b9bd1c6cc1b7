"""The energy of single operators (kernels): fitted on one GPU type, carried to another one."""

from fitting.operators.law import NAME, OperatorLaws, from_dict
from fitting.operators.solve import fit_operators
from fitting.operators.work import OPERATORS

__all__ = ["NAME", "OPERATORS", "OperatorLaws", "fit_operators", "from_dict"]
