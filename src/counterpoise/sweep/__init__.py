"""Running the jobs of a sweep in processes of their own."""
