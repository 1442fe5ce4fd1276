"""The order manager: signals in, orders out at the venues, and positions from fills."""
