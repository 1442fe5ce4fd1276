"""Advice from models; it cannot order. Not built yet."""
