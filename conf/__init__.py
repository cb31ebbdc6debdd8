"""The configuration groups, installed as `counterpoise.conf`."""
