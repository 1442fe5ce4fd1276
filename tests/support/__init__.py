"""Builders and servers the tests share."""
