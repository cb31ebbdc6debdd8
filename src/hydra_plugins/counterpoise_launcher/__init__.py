"""Hydra plugin of counterpoise: the launcher of sweeps. Hydra requires plugins to be in the package `hydra_plugins`."""
