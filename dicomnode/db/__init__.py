"""Rows: the only part that speaks SQL."""
