"""Brings weights into a pod."""
