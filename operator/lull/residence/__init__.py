"""Brings adapters to where they should be: asks each replica what it has, and tells it what to do next."""
