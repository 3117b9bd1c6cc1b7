"""Choose the serving configuration that uses least energy under latency limits."""

from energylens.recommendation.choose import recommend
from energylens.recommendation.request import Limits, Request
from energylens.recommendation.result import Choice, Recommendation

__all__ = ["Choice", "Limits", "Recommendation", "Request", "recommend"]
