"""Metrics of a classifier: importing the package registers the built-in ones."""

from counterpoise.metrics import averages, multi_label, single_label

__all__ = ["averages", "multi_label", "single_label"]
