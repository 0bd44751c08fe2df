"""Brings a model's files from a hub to a folder, in a container that runs before the engine.

`snapshot` and `download` decide (what is in a repository, what is needed, what an answer means), `fetch` does.
"""
