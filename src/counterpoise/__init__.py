"""Text classification on imbalanced classes with PyTorch Lightning and Hydra."""
