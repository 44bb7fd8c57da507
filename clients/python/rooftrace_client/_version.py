"""The version of the client: that of the service it was tested with."""

__version__ = "0.2.0"
