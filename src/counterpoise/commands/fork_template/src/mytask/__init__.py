"""The project's own data source, head and loss."""
