"""Tools that make data sets: JSON files in, the parquet files of a run out."""
