"""Constants of robust statistics.

Both limits are in robust standard deviations; see Huber (1981, Robust Statistics, sections 4.5
and 4.8).
"""

from __future__ import annotations

HUBER = 1.345  # limit of Huber's weights: 95 % efficiency on Gaussian noise
BIWEIGHT = 6.0  # limit of Tukey's biweight: 98 % efficiency
GAUSSIAN_MEDIAN = 0.6745  # median of |x| in standard deviations
