"""The command line `energylens`."""

from energylens.cli.app import app, main

__all__ = ["app", "main"]
