"""The work on whole collections: Dask tasks and the command line."""
