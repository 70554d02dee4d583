"""A DuckLake catalogue of a store's parts."""
