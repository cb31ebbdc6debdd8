"""Losses of the strategies."""
