"""The files of a store: immutable Parquet parts, their locations, compaction, and the files of running commands."""
