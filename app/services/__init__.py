"""Writes and rules, one file a resource; a read needs none."""
