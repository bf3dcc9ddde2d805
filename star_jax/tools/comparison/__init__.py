"""A blind human comparison of rationales: the raters' sheets, the key, and the scorer."""
