"""Rooftrace: building masks from satellite and aerial imagery, by HTTP and on the command line."""

__version__ = "0.2.0"
