"""Put the sections together into one HTML page that needs nothing from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from energylens.fingerprint import fingerprint
from energylens.htmlpage import fill
from energylens.plain import plain
from energylens.report import facts, law, levers, ranking, times, tradeoff
from energylens.report.write import Material

HERE = Path(__file__).parent


def render(material: Material) -> str:
    """Return the page of a run as HTML text."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    content = sections(material)
    data = content.pop("data")
    return fill(
        HERE / "template.html",
        **content,
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
        data=Markup(_script_json(data)),
        fingerprint=fingerprint(material.frame),
    )


def sections(material: Material) -> dict[str, Any]:
    """Compute every section as plain values; a section that does not apply says why."""
    check = law.check(material)
    laws = law.laws(material.law) if material.law is not None else []
    tradeoffs = tradeoff.tradeoffs(material.frame)
    evaluation = material.evaluation
    return {
        "head": facts.header(material),
        "energies": bool(material.frame["total_energy_j"].notna().any()),
        "times": times.times(material.frame),
        "quality": facts.quality(material.frame),
        "tiles": ranking.headline(evaluation, check),
        "law": {"count": len(laws), "missing": material.law_missing},
        "check_title": _check_title(material),
        "check": {k: v for k, v in check.items() if k != "points"} if check else None,
        "ranking": ranking.ranking(evaluation) if evaluation else None,
        "ranking_missing": material.evaluation_missing,
        "divergence": levers.divergence(evaluation) if evaluation else None,
        "levers": levers.levers(evaluation) if evaluation else [],
        "curves": bool(evaluation and ranking.curves(evaluation)),
        "tradeoff": {k: v for k, v in tradeoffs.items() if k != "scenarios"} if tradeoffs else None,
        "data": {
            "laws": laws,
            "points": check["points"] if check else None,
            "tradeoff": tradeoffs,
            "truth": _truth(material),
            "curves": ranking.curves(evaluation) if evaluation else None,
        },
    }


def _truth(material: Material) -> str:
    """Name the axis that predictions are held against: projected energy is not measured."""
    return "Energy in the data (projected)" if _projected(material) else "Measured energy"


def _check_title(material: Material) -> dict[str, str]:
    if _projected(material):
        return {"short": "Law against data", "long": "The law against the projected energies"}
    return {"short": "Law against data", "long": "Predicted against measured"}


def _projected(material: Material) -> bool:
    return set(material.frame["provenance"].dropna()) == {"projected"}


def _script_json(value: Any) -> str:
    """Write JSON that cannot end the script element it stands in."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
