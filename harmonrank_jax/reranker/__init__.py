"""Slates by a learned policy."""
