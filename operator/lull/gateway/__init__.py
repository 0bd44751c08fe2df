"""The OpenAI-compatible door in front of the engines."""
