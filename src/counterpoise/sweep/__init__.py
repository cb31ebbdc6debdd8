"""Running the jobs of a sweep in separate processes."""
