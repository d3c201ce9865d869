"""Data to try the product with, drawn on the spot: it needs no download and no licence."""
