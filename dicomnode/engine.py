"""Durable execution (placeholder until the next commit of this module)."""
