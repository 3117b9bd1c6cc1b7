"""The process that runs PySR: `python -m fitting.discover.pysr_worker FOLDER`.

It reads job.json and job.npz from the folder; PySR writes its hall of fame there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Search as the job says."""
    from importlib import import_module

    import numpy as np

    pysr = import_module("pysr")

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "job.npz") as arrays:
        spec = pysr.TemplateExpressionSpec(**job["template"])
        regressor = pysr.PySRRegressor(expression_spec=spec, **job["regressor"])
        regressor.fit(
            arrays["X"],
            arrays["y"],
            weights=arrays["weights"],
            variable_names=job["variable_names"],
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
