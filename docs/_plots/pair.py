"""The line through an overlap with noise in both tiles."""

import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(2)
scene = 1000 + 25 * rng.standard_normal(400)
x = scene + 20 * rng.standard_normal(400)
y = 1.2 * scene - 150 + 20 * rng.standard_normal(400)

flat = np.cov(x, y)[0, 1] / np.var(x)
difference = np.var(y) - np.var(x)
steep = (difference + np.hypot(difference, 2 * np.cov(x, y)[0, 1])) / (2 * np.cov(x, y)[0, 1])

figure, axes = plt.subplots(figsize=(5, 3.6))
axes.plot(x, y, ".", color="0.6", markersize=3)
line = np.array([x.min(), x.max()])
for slope, style, label in (
    (flat, "C1--", f"regression: {flat:.2f}"),
    (steep, "C0-", f"errors in both: {steep:.2f}"),
    (1.2, "k:", "truth: 1.20"),
):
    axes.plot(line, y.mean() + slope * (line - x.mean()), style, label=label)
axes.set(xlabel="tile i / ADU", ylabel="tile j / ADU")
axes.legend(frameon=False)
