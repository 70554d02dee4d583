"""A DuckLake catalogue over a store."""
