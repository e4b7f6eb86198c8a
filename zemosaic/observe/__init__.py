"""Observers of the events of a run: trace, console, status, autopsy. They import no numerics."""
