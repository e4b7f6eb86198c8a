"""The inner loops, compiled or in numpy."""
