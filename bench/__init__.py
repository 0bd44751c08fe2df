"""What Lull claims, as commands that measure it: `make bench`, or `python -m bench NAME... [--json]`."""
