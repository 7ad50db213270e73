"""Arrays to bytes and back: no files, no store, no Dask."""
