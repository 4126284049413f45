"""Nets of nested sub-networks, each of which answers."""
