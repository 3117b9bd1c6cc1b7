"""EnergyLens: which serving configuration of a language model uses the least energy.

The Python face is small: `load` reads a run folder, `fit` turns measurements into
laws, `load_fit` reads a saved law, `recommend` picks a configuration. All of it is
imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energylens.api import fit, load, load_fit, recommend

    __version__: str

__all__ = ["__version__", "fit", "load", "load_fit", "recommend"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("energylens")
        except PackageNotFoundError:  # a checkout that was never installed
            return "0+unknown"
    if name in __all__:
        from energylens import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, also those not imported yet."""
    return sorted({*globals(), *__all__})
