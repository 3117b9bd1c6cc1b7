"""Run the command line as `python -m energylens`."""

from energylens.cli import app

if __name__ == "__main__":
    app(prog_name="energylens")
