"""Aperture photometry of stars: a second opinion on the gain of a pair."""
