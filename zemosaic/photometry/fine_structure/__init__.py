"""Structure of the illumination finer than its polynomials, from the corrected overlaps."""
