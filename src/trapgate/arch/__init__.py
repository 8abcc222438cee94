"""What the manuals state, as data."""
