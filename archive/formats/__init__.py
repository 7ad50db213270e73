"""The image formats that can be read and written; each one is a module of this package."""
