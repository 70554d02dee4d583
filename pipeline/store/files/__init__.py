"""The store's files: immutable Parquet parts, where they lie, compaction and signs of life."""
