"""The energy of serving runs without input lengths, J per output token: one law for all of them.

Published serving benchmarks give a total energy, a batch limit and a mean output length, and a
few rows a model. So one law is shared by all models, GPU types and tasks (`terms`), and random
effects move it where rows were measured (`effects`).
"""

from fitting.serving.law import NAME, ServingLaw, fit_serving, from_dict, serving_rows

__all__ = ["NAME", "ServingLaw", "fit_serving", "from_dict", "serving_rows"]
