"""The page of a run: text, charts and pictures made from its folder."""
