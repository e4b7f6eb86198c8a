"""Runs any jobs on any pool, and says what happens. Knows no tile and no span."""
