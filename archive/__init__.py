"""Image files and the Zarr hierarchy that keeps them."""
