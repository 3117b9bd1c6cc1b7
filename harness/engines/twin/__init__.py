"""The twin engine: projected time and energy on hardware that is not at hand."""
