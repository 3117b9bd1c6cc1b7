"""One (model, hardware) while its design grows: what is known, and what is still to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.design.budget import Purse
from fitting.design.choices import contrasts_of, expected_regret, scenarios_of
from fitting.design.criteria import Belief, gains
from fitting.design.result import PairOutlook
from fitting.design.state import State, state_of
from fitting.facts import Facts

if TYPE_CHECKING:
    import pandas as pd

    from fitting.forms import Form
    from fitting.pairfit import PairFit

Index = NDArray[np.intp]


class PairDesign:
    """One (model, hardware): its candidates, what is known, and how that grows."""

    def __init__(
        self,
        rows: pd.DataFrame,
        index: Index,
        known: NDArray[np.bool_],
        measured: pd.DataFrame | None,
        facts: Facts,
        form: Form,
        fitted: PairFit | None,
    ) -> None:
        mine = rows.iloc[index]
        self.index = index
        self.model_id, self.hardware = str(mine["model_id"].iloc[0]), str(mine["hardware"].iloc[0])
        seen = None
        if measured is not None and len(measured):
            own = measured["model_id"].eq(self.model_id) & measured["hardware"].eq(self.hardware)
            seen = measured[own.to_numpy(dtype=bool)]
        self.rows_known = int(known[index].sum())
        self.learnt = fitted.n_rows if fitted else 0 if seen is None else len(seen)
        self.state: State = state_of(mine, seen, facts, form, fitted)
        self.scenarios = scenarios_of(mine)
        self.belief = Belief(
            self.state.covariance,
            self.state.observed,
            self.state.slope,
            contrasts_of(self.state, self.scenarios),
            max(len(self.scenarios), 1),
        )
        self.free = np.flatnonzero(~known[index])
        self.chosen = 0

    def best(self, purse: Purse, criterion: str) -> tuple[float, int, float] | None:
        """Return worth, place and gain of the best candidate that can be paid, or None."""
        open_ = self.free[purse.affordable(self.index[self.free])]
        if not len(open_):
            return None
        if criterion == "regret" and not len(self.scenarios):
            criterion = "i-optimal"
        gain = gains(self.belief, criterion, open_)
        worth = purse.worth(gain, self.index[open_])
        place = int(worth.argmax())
        return float(worth[place]), int(open_[place]), float(gain[place])

    def take(self, place: int) -> None:
        """Count one candidate as measured."""
        self.belief = self.belief.measure(place)
        self.free = self.free[self.free != place]
        self.chosen += 1

    def outlook(self) -> PairOutlook:
        """Return what the design does for this pair."""
        before = expected_regret(self.state, self.scenarios, self.state.covariance)
        after = expected_regret(self.state, self.scenarios, self.belief.covariance)
        some = len(self.scenarios) > 0
        return PairOutlook(
            self.model_id,
            self.hardware,
            len(self.index),
            self.rows_known,
            self.chosen,
            len(self.scenarios),
            float(before.mean()) if some else float("nan"),
            float(after.mean()) if some else float("nan"),
        )
