"""Makes measurements: plans work, drives engines and meters, stores the results."""
