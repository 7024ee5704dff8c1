"""Annex: workspaces, members, API keys, one event log and live streams for a Supabase project."""

from importlib.metadata import version

__version__ = version("annex-b2b")
