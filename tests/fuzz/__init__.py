"""Random cases by the million: code bytes, descriptor tables, page tables. docs/testing.md says how to run them."""
