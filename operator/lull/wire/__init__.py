"""Bytes to facts and back, sans-I/O."""
