"""Runs any jobs on any pool and reports all events; independent of tiles and traces."""
