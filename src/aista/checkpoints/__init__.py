"""Weights from and for elsewhere: SALMONN, BEATs, downloads, and what is missing on this machine."""
