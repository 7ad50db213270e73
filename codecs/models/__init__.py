"""The learned models: their integer form, and how they are trained.

`blob` holds the integer form and needs NumPy only; it is all that reading and writing of tiles asks for. The
other modules train the networks and turn them into integers; they need torch (the extra ``learned``), which
is imported with them and by nothing else.
"""
