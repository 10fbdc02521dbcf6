"""The version of the library, which the build reads here."""

__version__ = "0.2.0"
