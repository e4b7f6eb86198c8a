"""Previews: tiles resampled onto a coarse grid that all of them share."""
