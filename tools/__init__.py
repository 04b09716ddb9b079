"""Tools for a checkout of the kit, run by the Makefile as `python -m tools.x`.

The package imports nothing from here, and its wheel does not hold it.
"""

from micse_utils.settings import settle_console

settle_console()
