"""The one place that states the version. pyproject.toml reads it too, without importing anything."""

__version__ = "0.1.0"
