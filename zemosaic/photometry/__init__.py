"""Pure numerics: arrays in, arrays out. No futures, spans, logs or clocks."""
