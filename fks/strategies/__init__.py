"""Strategies turn bars into wanted positions: vectorised, pure, checked at load."""
