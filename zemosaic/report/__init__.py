"""The report of a run: one HTML page with text, charts and images, made from the run folder."""
