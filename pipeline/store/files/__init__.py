"""The files of a store: immutable Parquet parts, their places, compaction, and the files of running commands."""
